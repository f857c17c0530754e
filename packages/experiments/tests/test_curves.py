"""Curves are what metrics.csv says; thinned ones keep their peaks."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import DataError
from eyas.experiments.report.curves import (
    ALL_POINTS,
    LEAST_POINTS,
    MOST_POINTS,
    Curve,
    curve_names,
    packed,
    points_for,
    read_curves,
    thin,
)
from eyas.experiments.run_logger import RunLogger


@given(st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), min_size=1, max_size=400), st.integers(8, 64))
def test_a_thinned_curve_has_points_of_the_curve_its_ends_and_its_extremes(values, most):
    values_T = np.array(values)
    thinned = thin(Curve(np.arange(len(values)) + 1.0, values_T), most)
    places = thinned.steps_T.astype(int) - 1
    assert len(places) <= max(most, 8)
    assert (np.diff(places) > 0).all()
    assert np.array_equal(thinned.values_T, values_T[places], equal_nan=True)
    assert (places[0], places[-1]) == (0, len(values) - 1)
    assert np.isnan(values_T).any() == np.isnan(thinned.values_T).any()
    if not np.isnan(values_T).all():
        assert np.nanmin(thinned.values_T) == np.nanmin(values_T)
        assert np.nanmax(thinned.values_T) == np.nanmax(values_T)


@given(st.integers(1, 10**5))
def test_points_stay_in_their_room(curves):
    points = points_for(curves)
    assert LEAST_POINTS <= points <= MOST_POINTS
    assert points * curves <= max(ALL_POINTS, LEAST_POINTS * curves)


def test_packed_numbers_are_little_endian_single_precision():
    numbers = np.array([0.5, -1e300, np.nan])
    assert np.array_equal(
        np.frombuffer(base64.b64decode(packed(numbers)), "<f4"), np.float32([0.5, -np.inf, np.nan]), equal_nan=True
    )


@pytest.fixture
def log(tmp_path):
    """Four steps, of which every other was validated, and the loss of one is no number."""
    log = RunLogger(tmp_path)
    for step, loss in enumerate([3.0, np.nan, 2.0, 1.0]):
        log.log_metrics({"train/loss": loss, "samples": 8.0, "blocks.1.branches.moe/load_0": 1.0}, step)
        if step % 2:
            log.log_metrics({"validation/loss": loss + 1, "grad norm, L2": 0.5}, step)
    return log


def test_curves_are_the_columns_that_are_no_bookkeeping(log):
    names = curve_names([log.path, log.path.with_name("absent.csv")])
    assert names == ["train/loss", "validation/loss", "grad norm, L2"]


def test_steps_count_from_one_and_what_is_absent_is_no_point(log):
    curves = read_curves(log.path, ["train/loss", "validation/loss", "absent"])
    assert curves.keys() == {"train/loss", "validation/loss"}
    assert curves["train/loss"].steps_T.tolist() == [1, 2, 3, 4]
    assert np.isnan(curves["train/loss"].values_T[1])
    validation = curves["validation/loss"]
    assert validation.steps_T.tolist() == [2, 4]
    assert read_curves(log.path, ["grad norm, L2"])["grad norm, L2"].values_T.tolist() == [0.5, 0.5]
    assert (validation.by_step().keys(), validation.by_step()[4]) == ({2, 4}, 2.0)


def test_a_line_that_a_killed_run_left_short_is_passed_over(log):
    with log.path.open("a") as stream:
        stream.write("4,1.5e-")
    assert read_curves(log.path, ["train/loss"])["train/loss"].steps_T.tolist() == [1, 2, 3, 4]


def test_a_damaged_file_is_named(log):
    with log.path.open("a") as stream:
        stream.write("4,1.5,1,2,3,4,5,6\n")
    with pytest.raises(DataError, match=r"metrics\.csv is damaged"):
        read_curves(log.path, ["train/loss"])
    assert read_curves(log.path.with_name("absent.csv"), ["train/loss"]) == {}
