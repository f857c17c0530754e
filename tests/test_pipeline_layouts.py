"""Any way to divide a model into pipeline stages computes what one process computes."""

from functools import partial
from unittest.mock import patch

import pytest
import torch
from drawn import ON_WORKERS
from hypothesis import given
from hypothesis import strategies as st
from models import falcon_h1, hymba, mixture, zamba2

from eyas.core.errors import LayoutError
from eyas.layers.testing import (
    Trial,
    assert_checkpoint_loads,
    assert_equal_outcomes,
    assert_layout_changes_nothing,
    run,
    train_here,
)
from eyas.layers.testing.checkpoints import load_here, save_here
from eyas.layers.testing.compare import assert_close
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.in_flight import passes
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool

TWO = partial(Layout, pipeline=2, virtual_pipeline=2)
FOUR = partial(Layout, pipeline=4, virtual_pipeline=2)

CASES = {
    "two by two": (falcon_h1(), TWO(), {}),
    "four by two": (falcon_h1(repeat=4), FOUR(), {}),
    "two by three, tied": (falcon_h1(repeat=3, tied=True), Layout(pipeline=2, virtual_pipeline=3), {}),
    "tensor and sequence, tied, documents": (
        falcon_h1(tied=True, groups=2), TWO(tensor=2, sequence=True), {"documents": True},
    ),
    "data and distributed optimizer": (falcon_h1(), TWO(data=2, distributed_optimizer=True), {}),
    "data, overlapped": (falcon_h1(tied=True), TWO(data=2, overlap=True), {}),
    "further tokens, documents, larger microbatches": (
        falcon_h1(depths=2), TWO(), {"documents": True, "global_batch": 8, "microbatch": 2},
    ),
    "meta tokens": (hymba(), TWO(tensor=2, sequence=True), {}),
    "a mixture": (mixture(selection_bias_rate=0.05, score="sigmoid"), TWO(tensor=2, sequence=True), {}),
    "a mixture with a loss, tied": (mixture(tied=True, balance_loss=0.1), TWO(data=2), {}),
    "experts": (mixture(balance_loss=0.1), TWO(data=2, expert=2), {}),
    "context, documents": (falcon_h1(depths=1), TWO(context=2), {"documents": True}),
    "swapped branches": (falcon_h1(repeat=4), TWO(tensor=2, sequence=True, branches="swapped"), {}),
    "shared blocks": (
        zamba2(repeat=1, pattern=["attend", "think", "ssm", "attend", "think", *["ssm"] * 4]),
        TWO(stages=(6, 1, 1, 1)), {},
    ),
    "a list": (falcon_h1(repeat=3), Layout(pipeline=2, stages=(1, 5)), {}),
    "a list, interleaved": (falcon_h1(repeat=3, tied=True), TWO(stages=(1, 2, 1, 2)), {}),
    "marks, interleaved": (
        falcon_h1(repeat=1) | {"pattern": ["ssm", "|", "attn", "ffn", "|", "attn", "|", "ffn"]}, TWO(), {},
    ),
    "balanced": (falcon_h1(repeat=3, depths=1), Layout(pipeline=4, stages="auto"), {}),
    "balanced, interleaved": (falcon_h1(repeat=3, vocab=200), TWO(stages="auto"), {}),
    "more microbatches than warm-up": (falcon_h1(), TWO(), {"global_batch": 12}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stages_change_nothing(case):
    model, layout, options = CASES[case]
    assert_layout_changes_nothing(model, layout, **options)


@st.composite
def cut_models(draw):
    """Models with a layout of two to eight stages that divides them in any of the ways."""
    pipeline, virtual = draw(st.sampled_from([(2, 1), (2, 2), (2, 3), (4, 1), (4, 2)]))
    lengths = draw(st.lists(st.integers(1, 2), min_size=pipeline * virtual, max_size=pipeline * virtual))
    kinds = st.sampled_from(["ssm+attn", "ssm", "attn", "ffn"])
    blocks = [draw(kinds) for _ in range(sum(lengths))]
    model = falcon_h1(
        repeat=1, tied=draw(st.booleans()), vocab=draw(st.sampled_from([48, 51])), groups=draw(st.sampled_from([1, 2]))
    )
    way = draw(st.sampled_from(["evenly", "marks", "list", "auto"]))
    if way == "marks":
        starts = [sum(lengths[:stage]) for stage in range(1, len(lengths))]
        blocks = [item for index, block in enumerate(blocks) for item in ([*"|"] * (index in starts) + [block])]
    model["pattern"] = blocks + draw(st.sampled_from([[], ["/", "attn", "ffn"]]))
    tensor = draw(st.sampled_from([1, 2]))
    data = draw(st.sampled_from([1, 2] if tensor * pipeline < 8 else [1]))
    return model, Layout(
        pipeline=pipeline,
        virtual_pipeline=virtual,
        stages={"list": tuple(lengths), "auto": "auto"}.get(way),
        tensor=tensor,
        sequence=tensor > 1 and draw(st.booleans()),
        data=data,
        distributed_optimizer=data > 1 and draw(st.booleans()),
    )


@pytest.mark.slow
@ON_WORKERS
@given(cut_models(), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.integers(0, 1000))
def test_any_division_changes_nothing(case, groups, microbatch, documents, seed):
    model, layout = case
    sizes = {"global_batch": layout.data * layout.pipeline * groups * microbatch, "microbatch": microbatch}
    assert_layout_changes_nothing(model, layout, **sizes, documents=documents, seed=seed)


SAVED_TOLERANCE = 1e-6
"""Megatron-Core saves weights and the optimizer's state in float32."""
SAVED = Trial(
    model=falcon_h1(repeat=4, tied=True, depths=1),
    optimizer=OptimizerOptions(learning_rate=1e-2, clip_norm=0.0),
)


@pytest.mark.parametrize("layout", [TWO(), TWO(tensor=2, sequence=True), FOUR(stages="auto")], ids=str)
def test_checkpoints_go_between_interleaved_stages_and_one_process(layout):
    assert_checkpoint_loads(SAVED, Layout(), layout)
    assert_checkpoint_loads(SAVED, layout, Layout())


def test_checkpoints_of_the_distributed_optimizer_go_from_interleaved_stages_to_one_process(tmp_path):
    layout = TWO(data=2, distributed_optimizer=True)
    saved, expected = pool(4).run(save_here, SAVED, layout, tmp_path / "step-1")[0]
    loaded, actual = pool(1).run(load_here, SAVED, Layout(distributed_optimizer=True), tmp_path / "step-1")[0]
    assert saved.keys() == loaded.keys()
    for name, weight in saved.items():
        assert torch.equal(loaded[name].float(), weight.float()), name
        assert_close(f"{name} one step later", actual[name], expected[name], SAVED_TOLERANCE, SAVED.rounding)


@pytest.mark.parametrize("layout", [Layout(pipeline=2), TWO(), FOUR()], ids=str)
def test_the_schedule_is_the_one_that_memory_is_counted_by(layout):
    trial = Trial(model=falcon_h1(repeat=4), global_batch=8)
    done = pool(layout.processes).run(passes_here, trial, layout)
    assert done == [list(passes(layout, rank, 8)) for rank in range(layout.pipeline)]


def passes_here(trial, layout):
    """Which of its stages a rank really runs forward and backward, in order."""
    engine, done = engine_here(trial, layout), []
    for number, chunk in enumerate(engine.chunks):
        chunk.register_forward_hook(partial(note, done, number))
    engine.train_step(microbatches_here(trial, layout, 0))
    return done


def note(done, number, chunk, arguments, output):
    done.append((number, True))
    output.register_hook(lambda gradient: done.append((number, False)))


def test_stages_in_another_order_are_found():
    trial = Trial(model=falcon_h1())
    with pytest.raises(AssertionError, match="loss of step 0 .* differs"):
        assert_equal_outcomes(pool(2).run(train_out_of_turn, trial, TWO())[0], run(trial, Layout()), trial, TWO())


def train_out_of_turn(trial, layout):
    """The trial where a rank has stages that follow each other, instead of every second one."""
    with patch.object(Layout, "stages_of", lambda self, rank: range(2 * rank, 2 * rank + 2)):
        return train_here(trial, layout)


def test_interleaved_stages_refuse_microbatches_that_do_not_fill_their_turns():
    trial = Trial(model=falcon_h1(), global_batch=3)
    with pytest.raises(LayoutError, match="in groups of layout.pipeline=2, but each replica has 3 in a step"):
        assert_layout_changes_nothing(trial.model, TWO(), global_batch=3)
