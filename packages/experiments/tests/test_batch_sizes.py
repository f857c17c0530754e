"""Batches that grow at the start of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError, LayoutError
from eyas.experiments.batch_sizes import BatchRamp, BatchSizes
from eyas.experiments.run_config import load_run

MODEL = {"hidden_size": 8, "vocab_size": 4096, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}}


@st.composite
def sizes(draw: st.DrawFn) -> BatchSizes:
    start, increment, stages = (draw(st.integers(1, 9)) for _ in range(3))
    ramp = BatchRamp(start=start, increment=increment, steps=draw(st.integers(stages, 60)))
    return BatchSizes(start + increment * stages, ramp)


@given(sizes(), st.integers(0, 100))
def test_the_samples_before_a_step_are_those_of_all_steps_before_it(batches: BatchSizes, step: int) -> None:
    assert batches.before(step) == sum(batches.at(earlier) for earlier in range(step))


@given(sizes())
def test_the_batch_grows_in_equal_stages_to_its_full_size(batches: BatchSizes) -> None:
    assert batches.ramp is not None
    ramped = [batches.at(step) for step in range(batches.ramp.steps)]
    assert ramped == sorted(ramped)
    assert list(dict.fromkeys(ramped)) == batches.all[:-1]
    lengths = {ramped.count(size) for size in ramped}
    assert max(lengths) - min(lengths) <= 1
    assert batches.at(batches.ramp.steps) == batches.at(10**9) == batches.full


def test_without_a_ramp_every_batch_is_full() -> None:
    assert (BatchSizes(6).all, BatchSizes(6).at(3), BatchSizes(6).before(3)) == ([6], 6, 18)


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        ({"start": 0, "increment": 4, "steps": 9}, "trainer.batch_ramp.start=0 must be at least 1"),
        ({"start": 6, "increment": 4, "steps": 9}, "start=6 does not grow to global_batch=16 by .* choose start=8"),
        ({"start": 16, "increment": 4, "steps": 9}, "start=16 does not grow to global_batch=16 .* choose start=12"),
        ({"start": 4, "increment": 20, "steps": 9}, "by increments of 20; choose a smaller start and increment"),
        ({"start": 4, "increment": 4, "steps": 2}, "batch_ramp.steps=2 has no step for some of the 3 stages"),
        ({"start": 4, "increment": 4}, "trainer.batch_ramp.steps: a value is required"),
    ],
)
def test_a_ramp_that_leads_nowhere_is_refused(ramp: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run({"model": MODEL, "trainer": {"batch_ramp": ramp}})


def test_every_stage_must_fill_the_replicas() -> None:
    trainer = {"batch_ramp": {"start": 4, "increment": 4, "steps": 9}, "microbatch": 2}
    load_run({"model": MODEL, "trainer": trainer, "layout": {"data": 2}})
    with pytest.raises(LayoutError, match="a stage of trainer.batch_ramp: global batch of 4 .* layout.data=4 times"):
        load_run({"model": MODEL, "trainer": trainer, "layout": {"data": 4}})
