"""What rows say together, and the verdicts on rules about it."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.experiments.results import Results, Row
from eyas.experiments.run_records import RunRecord
from eyas.experiments.trends import Untold, ranks, spearman
from eyas.experiments.verdicts import judge_rule

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=12)


def verdict(rule, *points):
    """On runs with the options and the losses, one for each seed, of each point."""
    rows = []
    for options, *losses in points:
        config = {"experiment.passes": [rule], **options}
        runs = [
            RunRecord(Path(str(options)), config | {"seed": seed}, metrics={"loss": loss}, state="finished")
            for seed, loss in enumerate(losses)
        ]
        rows.append(Row((), tuple(runs or [RunRecord(Path("lost"), config, state="failed")]), "" if runs else "FAILED"))
    return judge_rule(rule, Results(Path(), (), ("loss",), tuple(rows)), lambda run, metric: {})


def learning_rates(best, widths=(64, 128, 256), grid=(0.001, 0.002, 0.004, 0.008, 0.016)):
    """Points whose loss is least at the place in the grid that each width has its best at."""
    for width, place in zip(widths, best, strict=True):
        yield from (({"width": width, "rate": rate}, abs(i - place) + 0.1 * i) for i, rate in enumerate(grid))


@given(VALUES)
def test_ranks_are_mean_places_in_order(values):
    for value, rank in zip(values, ranks(values), strict=True):
        below, alike = sum(v < value for v in values), sum(v == value for v in values)
        assert rank == below + (alike - 1) / 2


@given(st.data())
def test_rank_correlation_is_one_less_the_squares_where_nothing_is_alike(data):
    size = data.draw(st.integers(2, 12))
    x, y = (data.draw(st.permutations(range(size))) for _ in range(2))
    squares = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    found = spearman([2.0**a for a in x], [math.atan(b) for b in y]).value
    assert math.isclose(found, 1 - 6 * squares / (size * (size**2 - 1)), rel_tol=1e-12, abs_tol=1e-12)


def test_rank_correlation_of_what_is_alike_is_that_of_the_literature():
    """Pearson's of the ranks 1.5, 1.5, 3, 4 and 1, 2.5, 2.5, 4, by hand: 3.75 / sqrt(4.5 * 4.5)."""
    assert math.isclose(spearman([1, 1, 2, 3], [0.1, 0.2, 0.2, 0.9]).value, 3.75 / 4.5, rel_tol=1e-12)
    with pytest.raises(Untold, match="nothing varies"):
        spearman([1, 1, 1], [1, 2, 3])


@pytest.mark.parametrize(
    ("rule", "state", "reason"),
    [
        ("spearman(loss, shares[1]) > 0.8", "passed", "spearman 0.8944 against 0.8: over 4 rows"),
        ("spearman(loss, shares[0]) < 0", "passed", "over 4 rows"),
        ("spearman(loss, shares[1]) > 0.9 where order=SAM", "passed", "over 2 rows"),
        ("spearman(loss, shares[1]) < 0.8", "failed", "spearman 0.8944 against 0.8"),
        ("spread(loss, order) < spread(loss, shares[1])", "passed", "spread 0.5 against 1: 2 at SAM to 2.5 at S_A_M; "),
        ("spread(loss, order) >= 0.6", "failed", "spread 0.5 against 0.6"),
        ("spread(loss, order) <= 0.6 where order=SAM|SA_M|S_A_M", "undecided", "no run has order=SA_M"),
        ("spread(loss, order) <= 0.6 where order=SAM", "undecided", "order does not vary"),
        ("spread(loss, order) <= 0.6 where order=MAS", "undecided", "no run is selected"),
        ("spearman(loss, order) <= 0.6", "undecided", "order=SAM is no number"),
        ("spearman(loss, shares[3]) <= 0.6", "undecided", "shares=[2, 1, 5] has no item 3"),
        ("spearman(speed, shares[1]) <= 0.6", "undecided", "4 of 4 rows have no speed"),
        ("spearman(loss, shares[1]) > 0.9 at step 3", "undecided", "4 of 4 rows have no loss"),
        ("shift(gain, shares[1], order) > 0", "undecided", "4 of 4 rows have no gain"),
    ],
)
def test_a_rule_about_a_trend_is_judged_over_all_rows(rule, state, reason):
    points = [
        ({"order": order, "shares": shares}, loss - 0.25, loss + 0.25)
        for order, more in (("SAM", 0.0), ("S_A_M", 0.5))
        for shares, loss in (([2, 1, 5], 1.5 + more), ([1, 2, 5], 2.5 + more))
    ]
    found = verdict(rule, *points)
    assert (found.state, reason in found.reason) == (state, True), found


@pytest.mark.parametrize(
    ("best", "rule", "state"),
    [
        ((2, 2, 2), "shift(loss, rate, width) <= 0", "passed"),
        ((2, 3, 2), "shift(loss, rate, width) <= 1", "passed"),
        ((3, 2, 1), "shift(loss, rate, width) <= 1", "failed"),
        ((3, 2, 1), "shift(loss, rate, width) >= 2", "passed"),
        ((2, 2, 1), "shift(loss, rate, width) >= 2", "failed"),
        ((4, 4, 4), "shift(loss, rate, width) <= 1", "undecided"),
        ((4, 2, 2), "shift(loss, rate, width) >= 2", "passed"),
        ((4, 2, 2), "shift(loss, rate, width) <= 1", "failed"),
        ((2, 2, 0), "shift(loss, rate, width) >= 3", "undecided"),
    ],
)
def test_a_shift_is_what_the_best_place_of_a_grid_moves(best, rule, state):
    found = verdict(rule, *learning_rates(best))
    assert found.state == state, found
    assert f"best rate {(0.001, 0.002, 0.004, 0.008, 0.016)[best[0]]:g} at 64, " in found.reason


def test_a_shift_needs_the_whole_grid_and_counts_what_is_no_number_as_worst():
    rule = "shift(loss, rate, width) <= 0"
    points = list(learning_rates((2, 2, 2)))
    assert "no row has rate=0.016 and width=256" in verdict(rule, *points[:-1]).reason
    points[-1] = (points[-1][0], math.nan)
    assert verdict(rule, *points).state == "passed"
    lost = verdict(rule, *points[:-1], (points[-1][0],))
    assert (lost.state, lost.reason) == ("undecided", "1 of 15 rows have no loss")
