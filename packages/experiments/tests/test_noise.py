"""Best is marked only beyond the noise."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.experiments.noise import best_row, best_rows, differ, incomplete_beta, two_sided, welch
from eyas.experiments.results import Results, Row, deviation
from eyas.experiments.run_records import RunRecord

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)


def results(metric, *rows):
    """Rows of runs with these values of a metric."""
    made = [
        Row((str(i),), tuple(RunRecord(Path("run"), metrics={metric: v}) for v in row)) for i, row in enumerate(rows)
    ]
    return Results(Path(), ("model",), (metric,), tuple(made))


def marked(metric, *rows):
    found = results(metric, *rows)
    best = best_row(found.rows, metric)
    return None if best is None else found.rows.index(best)


@given(VALUES, VALUES)
def test_welch_is_what_numpy_computes(a, b):
    errors = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    t, degrees = welch(a, b)
    if sum(errors) < 1e-12:
        return
    assert t == pytest.approx((np.mean(a) - np.mean(b)) / np.sqrt(sum(errors)), rel=1e-6, abs=1e-9)
    expected = sum(errors) ** 2 / (errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1))
    assert degrees == pytest.approx(expected, rel=1e-6)


@given(VALUES)
def test_deviation_is_numpys(values):
    assert deviation(values) == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)


@given(st.floats(-8, 8), st.floats(1, 60))
def test_probability_is_the_integral_of_students_density(t, degrees):
    constant = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    x, weight = np.polynomial.legendre.leggauss(200)
    inside = abs(t) * np.sum(weight * constant * (1 + (t * x) ** 2 / degrees) ** (-(degrees + 1) / 2))
    assert two_sided(t, degrees) == pytest.approx(1 - inside, abs=1e-10)


def test_a_probability_close_to_one_keeps_its_digits():
    density = math.gamma(3) / (math.sqrt(5 * math.pi) * math.gamma(2.5))
    assert 1 - two_sided(1e-6, 5) == pytest.approx(2e-6 * density, rel=1e-9)


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.706205), (2, 4.302653), (4, 2.776445), (10, 2.228139), (30, 2.042272)]
)
def test_published_quantiles(degrees, t):
    assert two_sided(t, degrees) == pytest.approx(0.05, abs=1e-7)


def test_limits():
    assert two_sided(math.inf, 3) == 0
    assert two_sided(0, 3) == pytest.approx(1)
    assert two_sided(1.959964, math.inf) == pytest.approx(0.05, abs=1e-7)
    assert (incomplete_beta(2, 3, 0.0, 1.0), incomplete_beta(2, 3, 1.0, 0.0)) == (0, 1)


def test_a_clear_winner_is_marked_the_way_that_its_metric_is_better():
    assert marked("accuracy", [0.98, 0.99, 0.985], [0.1, 0.12, 0.11]) == 0
    assert marked("validation_loss", [0.98, 0.99, 0.985], [0.1, 0.12, 0.11]) == 1


def test_nothing_is_marked_within_the_noise():
    assert marked("accuracy", [0.7, 0.9, 0.8], [0.75, 0.85, 0.72]) is None


def test_with_one_seed_nothing_is_marked():
    assert marked("accuracy", [0.9], [0.1]) is None
    assert marked("accuracy", [0.98, 0.99, 0.985], [0.1, 0.12, 0.11], [0.2]) is None


def test_the_best_must_beat_every_other_row():
    assert marked("accuracy", [0.98, 0.99, 0.985], [0.1, 0.12, 0.11], [0.981, 0.99, 0.986]) is None


def test_more_rivals_ask_for_more():
    first, rival = [0.90, 0.94, 0.92], [0.84, 0.88, 0.86]  # differ at p = 0.02
    assert marked("accuracy", first, rival) == 0
    assert marked("accuracy", first, rival, *[[0.1, 0.11, 0.12]] * 3) is None


@pytest.mark.parametrize("metric", ["parameters", "steps", "uniform_loss", "acc_stderr", "tokens"])
def test_what_is_no_result_is_never_marked(metric):
    assert marked(metric, [5, 5.1, 5], [1, 1.1, 1]) is None


def test_a_loss_that_is_no_number_hinders_marks():
    assert marked("validation_loss", [1.0, 1.01], [math.nan, 3.0]) is None


def test_without_any_deviation_every_difference_counts():
    assert marked("accuracy", [1.0, 1.0], [0.5, 0.5]) == 0
    assert not differ([1.0, 1.0], [1.0, 1.0])


def test_the_best_is_the_best_of_its_task():
    accuracies = {"mqar": (0.9, 0.5), "copying": (0.7, 0.2)}
    rows = [
        Row(
            (kind,),
            tuple(RunRecord(Path("run"), {"task.kind": kind}, metrics={"accuracy": a + n / 100}) for n in (0, 1)),
        )
        for kind, pair in accuracies.items()
        for a in pair
    ]
    best = best_rows(Results(Path(), ("task",), ("accuracy",), tuple(rows)), "accuracy")
    assert best == [rows[0], rows[2]]


@pytest.mark.parametrize("option", ["data.blend.code.weight", "data.tokenizer", "data.validation_fraction"])
def test_nothing_is_best_of_texts_that_are_not_the_same(option):
    found = results("validation_loss", [1.0, 1.01], [2.0, 2.01])
    assert len(best_rows(found, "validation_loss")) == 1
    for number, row in enumerate(found.rows):
        for run in row.runs:
            run.config[option] = number
    assert best_rows(found, "validation_loss") == []
