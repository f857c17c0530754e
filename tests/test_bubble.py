"""Pipeline processes wait as long as the schedules' formula says."""

import pytest

from benchmarks.bubble import Clock, bubble
from eyas.parallel.layout import Layout

SIZES = [(2, 1, 4), (4, 1, 4), (4, 1, 8), (2, 2, 4), (4, 2, 4), (4, 2, 8), (4, 3, 8)]


@pytest.mark.parametrize(("pipeline", "virtual", "microbatches"), SIZES)
def test_the_order_of_passes_makes_processes_wait_as_long_as_the_formula_says(pipeline, virtual, microbatches):
    layout = Layout(pipeline=pipeline, virtual_pipeline=virtual)
    ordered = bubble(layout, microbatches, Clock, seconds=float(virtual))
    assert ordered == pytest.approx((pipeline - 1) / (virtual * microbatches), rel=1e-6)
