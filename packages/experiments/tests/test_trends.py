"""What rows say together, and the verdicts on rules about it."""

import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.experiments.results import Results, Row
from eyas.experiments.rules import Trend
from eyas.experiments.run_records import RunRecord
from eyas.experiments.trends import Untold, ranks, spearman
from eyas.experiments.verdicts import judge_rule

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=12)


def verdict(rule, *points, metric="loss"):
    """On runs with the options and the metrics, one for each seed, of each point; at step 3 all were twice as large."""
    rows = []
    for options, *losses in points:
        config = {"experiment.passes": [rule], **options}
        runs = [
            RunRecord(Path(f"{options} {seed}"), config | {"seed": seed}, metrics={metric: loss}, state="finished")
            for seed, loss in enumerate(losses)
        ]
        rows.append(Row((), tuple(runs or [RunRecord(Path("lost"), config, state="failed")]), "" if runs else "FAILED"))
    ends = {run.path: run.metrics for row in rows for run in row.runs}
    results = Results(Path(), (), (metric,), tuple(rows))
    return judge_rule(rule, results, lambda run, name: {3: 2 * ends[run][name]} if name in ends[run] else {})


def learning_rates(best, widths=(64, 128, 256), grid=(0.001, 0.002, 0.004, 0.008, 0.016)):
    """Points whose loss is least at the place in the grid that each width has its best at."""
    for width, place in zip(widths, best, strict=True):
        yield from (({"width": width, "rate": rate}, abs(i - place) + 0.1 * i) for i, rate in enumerate(grid))


def correlated(x, y, metric="loss"):
    rows = [Row((), (RunRecord(Path(), {"x": value}),)) for value in x]
    return spearman(Trend("spearman", metric, ("x",)), rows, y).value


@given(VALUES)
def test_ranks_keep_the_order_and_share_out_all_places(values):
    found = ranks(values)
    assert sum(found) == sum(range(len(values)))
    for a, b in product(range(len(values)), repeat=2):
        assert (values[a] < values[b]) == (found[a] < found[b])


@given(st.data())
def test_rank_correlation_is_one_less_the_squares_where_nothing_is_alike(data):
    size = data.draw(st.integers(2, 12))
    x, y = (data.draw(st.permutations(range(size))) for _ in range(2))
    squares = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    found = correlated([2.0**a for a in x], [math.atan(b) for b in y])
    assert math.isclose(found, 1 - 6 * squares / (size * (size**2 - 1)), rel_tol=1e-12, abs_tol=1e-12)


def test_rank_correlation_of_what_is_alike_is_that_of_the_literature():
    """Pearson's of the ranks 1.5, 1.5, 3, 4 and 1, 2.5, 2.5, 4, by hand: 3.75 / sqrt(4.5 * 4.5)."""
    assert math.isclose(correlated([1, 1, 2, 3], [0.1, 0.2, 0.2, 0.9]), 3.75 / 4.5, rel_tol=1e-12)
    for x, y, name in (([1, 1, 1], [1, 2, 3], "x"), ([1, 2, 3], [1, 1, 1], "loss")):
        with pytest.raises(Untold, match=f"^{name} does not vary"):
            correlated(x, y)


def test_what_is_no_number_correlates_as_the_worst():
    assert correlated([1, 2, 3], [0.1, 0.2, math.nan]) == 1
    assert correlated([1, 2, 3], [0.9, 0.8, math.nan], "accuracy") == -1


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
        ("spearman(loss, order[0]) <= 0.6", "undecided", "order=SAM has no item 0"),
        ("spread(loss, order) > 0.9 at step 3", "passed", "spread 1 against 0.9: 4 at SAM to 5 at S_A_M"),
        ("spread(loss, order) > 0.9 at step 4", "undecided", "4 of 4 rows have no loss at step 4"),
        ("shift(loss, shares[1], absent) > 0", "undecided", "absent does not vary"),
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
        ((2, 2, 1), "shift(loss, rate, width) >= shift(loss, rate, width)", "passed"),
        ((2, 2, 4), "shift(loss, rate, width) >= shift(loss, rate, width)", "undecided"),
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


def test_the_best_of_what_is_better_high_is_the_highest():
    points = [(options, -loss) for options, loss in learning_rates((2, 1, 2))]
    assert verdict("shift(accuracy, rate, width) >= 1", *points, metric="accuracy").state == "passed"
    found = verdict("shift(gain, rate, width) >= 1", *points, metric="gain")
    assert found.reason == "nothing says whether more or less of gain is better"


@pytest.mark.parametrize("loss", [math.nan, 0.5])
def test_a_width_without_one_best_place_decides_nothing(loss):
    points = [(options, loss if options["width"] == 64 else other) for options, other in learning_rates((2, 1, 2))]
    found = verdict("shift(loss, rate, width) >= 1", *points)
    assert (found.state, found.reason) == ("undecided", "width=64 has no one best rate")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_spread_with_what_is_no_number_is_undecided(lost):
    points = [({"order": order}, math.nan if place == lost else 1.0) for place, order in enumerate("ab")]
    found = verdict("spread(loss, order) < 9", *points)
    assert (found.state, found.reason) == ("undecided", f"loss is no number at order={'ab'[lost]}")
