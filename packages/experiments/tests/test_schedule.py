"""Learning rate and weight decay over a run."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.experiments.schedule import DECAY_SHAPES, KINDS, DecayShape, ScheduleConfig, decay

TOTAL = 1000
schedules = st.builds(
    ScheduleConfig,
    kind=st.sampled_from(KINDS),
    warmup_steps=st.integers(0, 400),
    decay_steps=st.none() | st.integers(0, 600),
    decay_fraction=st.floats(0, 0.5),
    decay_shape=st.sampled_from(DECAY_SHAPES),
    min_lr_ratio=st.floats(0, 1),
)
falcons = schedules.map(lambda schedule: dataclasses.replace(schedule, kind="falcon_power"))
shapes = st.sampled_from(DECAY_SHAPES)


def rates(schedule: ScheduleConfig, total: int = TOTAL) -> list[float]:
    schedule.check(total)
    return [schedule.learning_rate(step, total) for step in range(total)]


@given(shapes)
def test_every_decay_falls_from_one_to_zero(shape: DecayShape) -> None:
    values = [decay(shape, step / 100) for step in range(101)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-15)
    assert values == sorted(values, reverse=True)


@given(st.floats(0, 1))
def test_decays_have_their_published_shapes(done: float) -> None:
    assert decay("linear", done) == 1 - done
    assert decay("cosine", done) == pytest.approx(math.cos(math.pi * done / 2) ** 2, abs=1e-15)
    assert decay("exponential", done) == pytest.approx(2 ** (1 - done) - 1, abs=1e-15)
    assert (1 - decay("minus_sqrt", done)) ** 2 == pytest.approx(done, abs=1e-15)


@given(schedules)
def test_the_warm_up_is_a_straight_line_to_one(schedule: ScheduleConfig) -> None:
    values = rates(schedule)[: schedule.warmup_steps]
    assert values == [(step + 1) / schedule.warmup_steps for step in range(schedule.warmup_steps)]


@given(schedules)
def test_the_rate_never_rises_after_the_warm_up_and_never_leaves_zero_to_one(schedule: ScheduleConfig) -> None:
    after = rates(schedule)[max(schedule.warmup_steps - 1, 0) :]
    assert after[0] == 1
    assert all(later <= sooner + 1e-15 for sooner, later in itertools.pairwise(after))
    assert min(after) >= 0


@given(schedules)
def test_stages_agree_where_they_meet(schedule: ScheduleConfig) -> None:
    with_decay, without = (dataclasses.replace(schedule, decay_steps=steps) for steps in (100, 0))
    if schedule.kind in ("wsd", "falcon_power"):
        for step in range(TOTAL - 100 + 1):
            assert with_decay.learning_rate(step, TOTAL) == without.learning_rate(step, TOTAL)
    else:
        assert schedule.learning_rate(schedule.warmup_steps, TOTAL) == 1


@given(schedules.filter(lambda schedule: schedule.kind == "wsd"))
def test_the_last_step_is_one_share_of_the_decay_above_its_end(schedule: ScheduleConfig) -> None:
    schedule = dataclasses.replace(schedule, decay_steps=100)
    rest = decay(schedule.decay_shape, 99 / 100)
    assert rest > 0
    expected = schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * rest
    assert rates(schedule)[-1] == pytest.approx(expected, rel=1e-12)


@given(schedules.filter(lambda schedule: schedule.kind in ("cosine", "linear")))
def test_the_decay_is_that_of_transformers(schedule: ScheduleConfig) -> None:
    """At their default minimum of 0, and behind the warm-up, which theirs begin at 0."""
    transformers = pytest.importorskip("transformers")
    schedule = dataclasses.replace(schedule, min_lr_ratio=0.0)
    theirs = getattr(transformers, f"get_{schedule.kind}_schedule_with_warmup")
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    (multiplier,) = theirs(optimizer, schedule.warmup_steps, TOTAL).lr_lambdas
    expected = [multiplier(step) for step in range(schedule.warmup_steps, TOTAL)]
    assert rates(schedule)[schedule.warmup_steps :] == pytest.approx(expected, abs=1e-12)


@given(schedules)
def test_wsd_is_constant_between_warm_up_and_decay(schedule: ScheduleConfig) -> None:
    schedule = dataclasses.replace(schedule, kind="wsd", decay_steps=100)
    assert set(rates(schedule)[max(schedule.warmup_steps - 1, 0) : TOTAL - 100 + 1]) == {1.0}


@given(falcons)
def test_falcon_power_keeps_sqrt_of_weight_decay_over_rate_constant_on_the_stable_stage(
    schedule: ScheduleConfig,
) -> None:
    schedule = dataclasses.replace(schedule, decay_steps=100)
    learning_rate, weight_decay = 3e-4, 0.1
    stable = range(max(schedule.warmup_steps - 1, 0), TOTAL - 100)
    ratios = [
        math.sqrt(
            weight_decay * schedule.weight_decay(step, TOTAL) / (learning_rate * schedule.learning_rate(step, TOTAL))
        )
        for step in stable
    ]
    assert ratios == pytest.approx([math.sqrt(weight_decay / learning_rate)] * len(ratios), rel=1e-12)


@given(falcons)
def test_falcon_power_falls_with_the_fourth_root_of_time(schedule: ScheduleConfig) -> None:
    schedule = dataclasses.replace(schedule, decay_steps=0)
    reference = max(schedule.warmup_steps, 1)
    for factor in (1, 2):
        step = 16**factor * reference - 1
        assert schedule.learning_rate(step, step + 1) == pytest.approx(0.5**factor, rel=1e-12)


@given(schedules.filter(lambda schedule: schedule.kind != "falcon_power"), st.integers(0, TOTAL))
def test_other_schedules_leave_the_weight_decay_alone(schedule: ScheduleConfig, step: int) -> None:
    assert schedule.weight_decay(step, TOTAL) == 1


@pytest.mark.parametrize(
    ("schedule", "total", "message"),
    [
        (ScheduleConfig(warmup_steps=50), 30, r"schedule\.warmup_steps=50 is longer than the run of 30 steps"),
        (ScheduleConfig(warmup_steps=20, decay_steps=11), 30, r"warmup_steps=20 and a decay of 11 steps do not fit"),
        (ScheduleConfig(warmup_steps=60, decay_fraction=0.5), 100, r"a decay of 50 steps do not fit"),
    ],
)
def test_stages_that_do_not_fit_the_run_are_refused(schedule: ScheduleConfig, total: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule.check(total)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "cosin"),
        ("decay_shape", "sqrt"),
        ("warmup_steps", -1),
        ("decay_steps", -1),
        ("decay_fraction", 1.5),
        ("min_lr_ratio", -0.1),
    ],
)
def test_impossible_options_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^schedule\.{field}={value}"):
        dataclasses.replace(ScheduleConfig(), **{field: value})
