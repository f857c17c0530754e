"""Every moment of a step belongs to one part of it."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.parallel.step_clock import BACKWARD, DATA, FORWARD, OPTIMIZER, PARTS, WAITING, StepClock

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Steady(StepClock):
    """Moments are numbers that a test sets."""

    moment = 0.0

    def _now(self) -> float:
        return self.moment

    def _between(self, begun: float, ended: float) -> float:
        return ended - begun


part = st.sampled_from(PARTS)
nested = st.recursive(st.floats(0.0, 1.0), lambda inner: st.tuples(part, st.lists(inner, max_size=4)), max_leaves=20)
"""What happens in a step: time passes, or a part has things inside."""


@given(st.lists(nested))
def test_the_parts_are_the_step_however_they_lie_in_each_other(things: list) -> None:
    clock, expected = Steady(CPU), dict.fromkeys(PARTS, 0.0)

    def happen(things: list, part: str) -> None:
        for thing in things:
            if isinstance(thing, float):
                clock.moment += thing
                expected[part] += thing
            else:
                with clock.inside(thing[0]):
                    happen(thing[1], thing[0])

    clock.start(DATA)
    happen(things, DATA)
    clock.stop()
    parts = clock.seconds()
    assert parts == pytest.approx(expected, abs=1e-12)
    assert sum(parts.values()) == pytest.approx(clock.moment)


def test_megatron_core_s_timers_are_parts() -> None:
    clock = Steady(CPU)
    clock.start(DATA)
    clock.moment = 1.0
    clock("forward-backward", log_level=1).start(barrier=True)
    clock("forward-recv", log_level=2).start()
    clock.moment = 3.0
    clock("forward-recv").stop()
    clock("forward-compute", log_level=2).start()
    clock.moment = 6.0
    clock("forward-compute").stop()
    clock("backward-compute", log_level=2).start()
    clock.moment = 11.0
    clock("backward-compute").stop()
    clock("forward-backward").stop()
    clock.stop()
    told = {DATA: 1.0, WAITING: 2.0, FORWARD: 3.0, BACKWARD: 5.0}
    assert clock.seconds() == dict.fromkeys(PARTS, 0.0) | told


def test_what_happens_between_steps_counts_for_none() -> None:
    clock = StepClock(CPU)
    with clock.inside(OPTIMIZER):
        time.sleep(0.001)
    assert not clock.running and clock.marks == [] and clock.seconds() is None
    clock.start(DATA)
    clock.stop()
    time.sleep(0.05)
    clock.start(DATA)
    clock.stop()
    parts = clock.seconds()
    assert parts is not None and sum(parts.values()) < 0.05


def test_a_gpu_tells_of_the_step_before_so_that_nobody_waits_for_it() -> None:
    clock, told = Steady(GPU), []
    for length in (1.0, 2.0, 3.0):
        clock.start(DATA)
        clock.moment += length
        clock.stop()
        told.append(clock.seconds())
    assert [parts and parts[DATA] for parts in told] == [None, 1.0, 2.0]
    assert len(clock.stopped) == 1
