"""Replicas: their gradients are reduced while others are computed, and their optimizer's state is saved whole."""

from unittest.mock import patch

import pytest
import torch
from models import BALANCED, falcon_h1, mixture

from eyas.layers.testing import Trial, assert_equal_outcomes, assert_layout_changes_nothing, run
from eyas.layers.testing.checkpoints import load_here, save_here
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

OVERLAPPED = {
    "data": Layout(data=2, overlap=True),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True, overlap=True),
    "pipeline": Layout(pipeline=2, data=2, distributed_optimizer=True, overlap=True),
    "interleaved": Layout(pipeline=2, virtual_pipeline=2, data=2, distributed_optimizer=True, overlap=True),
    "tensor": Layout(tensor=2, sequence=True, data=2, overlap=True),
    "context": Layout(context=2, data=2, distributed_optimizer=True, overlap=True),
    "recomputed": Layout(data=2, overlap=True, recompute="full"),
}
UNEVEN = falcon_h1(tied=True, vocab=300, repeat=1)
"""Its two stages are of different sizes, and most of each is the embedding."""


@pytest.mark.parametrize("layout", OVERLAPPED.values(), ids=OVERLAPPED.keys())
def test_overlapped_reductions_change_nothing(layout):
    assert_layout_changes_nothing(falcon_h1(), layout, steps=3)


def test_overlapped_reductions_wait_for_experts_that_no_token_reached():
    assert_layout_changes_nothing(
        mixture(num_experts=8, top_k=1, score="softmax"), OVERLAPPED["data"], sequence_length=4, steps=3
    )


def test_overlapped_reductions_wait_for_meta_tokens_on_every_tensor_rank():
    assert_layout_changes_nothing(falcon_h1() | {"meta_tokens": 4}, OVERLAPPED["tensor"], steps=3)


def test_an_embedding_on_two_stages_may_share_its_optimizer_state():
    assert_layout_changes_nothing(UNEVEN, Layout(pipeline=2, data=2, distributed_optimizer=True))


def test_reductions_begin_during_the_last_backward_pass():
    trial, layout = Trial(model=falcon_h1(), steps=2), OVERLAPPED["data"]
    first, second = pool(2).run(reductions_here, trial, layout)[0]
    assert first == ["finish"] * len(first), "the first step finds out which gradients a part waits for"
    assert len(second) > 4
    assert second[: len(second) // 2] == ["backward"] * (len(second) // 2)


def reductions_here(trial, layout):
    """One rank's part: when each part was reduced, for two steps of two microbatches."""
    from eyas.parallel import gradients
    from eyas.parallel.megatron import finalize_model_grads

    engine = engine_here(trial, layout)
    moments, moment = [], "backward"

    def finalize(*arguments, **options):
        nonlocal moment
        moment = "finish"
        finalize_model_grads(*arguments, **options)

    with patch.object(gradients, "finalize_model_grads", finalize):
        (chunk,) = engine.chunks
        begun = {id(group): group.start_grad_sync for group in chunk.bucket_groups}
        for group in chunk.bucket_groups:
            group.start_grad_sync = lambda group=group, **options: (
                moments[-1].append(moment),
                begun[id(group)](**options),
            )
        for step in range(2):
            moments.append([])
            moment = "backward"
            engine.train_step(microbatches_here(trial, layout, step))
            engine.update(1e-2, 0.1)
    return moments


@pytest.mark.parametrize("model", [falcon_h1(), UNEVEN], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ["distributed optimizer", "pipeline"])
def test_state_in_several_parts_is_saved_and_loaded(tmp_path, model, name):
    """Upstream writes the state of a part's weights over that of its neighbours; see eyas.parallel.mends."""
    trial, layout = Trial(model=model, dtype=torch.float32), OVERLAPPED[name]
    saved, expected = pool(layout.processes).run(save_here, trial, layout, tmp_path / "step-1")[0]
    loaded, actual = pool(layout.processes).run(load_here, trial, layout, tmp_path / "step-1")[0]
    _, alone = pool(1).run(load_here, trial, Layout(distributed_optimizer=True), tmp_path / "step-1")[0]
    for weight, value in expected.items():
        assert torch.equal(loaded[weight], saved[weight]), weight
        assert torch.equal(actual[weight], value), weight
        assert (alone[weight] - value).abs().max() <= 1e-4 * value.abs().max(), weight


WITHOUT_EXPERTS_LAST = mixture(repeat=1) | {"pattern": ["ssm", "moe", "|", "attn"]}
OTHER = {
    "to the distributed optimizer": (falcon_h1(), Layout(), Layout(data=2, distributed_optimizer=True), torch.float32),
    "from the distributed optimizer": (falcon_h1(), OVERLAPPED["pipeline"], Layout(), torch.float32),
    "from a stage without experts": (
        WITHOUT_EXPERTS_LAST, Layout(pipeline=2), Layout(), torch.float64,
    ),
    "from a distributed stage without experts": (
        WITHOUT_EXPERTS_LAST, Layout(pipeline=2, distributed_optimizer=True), Layout(), torch.float32,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "saved", "loaded", "dtype"), OTHER.values(), ids=OTHER.keys())
def test_training_goes_on_with_another_of_the_optimizers(tmp_path, model, saved, loaded, dtype):
    trial = Trial(model=model, dtype=dtype)
    before, expected = pool(saved.processes).run(save_here, trial, saved, tmp_path / "step-1")[0]
    after, actual = pool(loaded.processes).run(load_here, trial, loaded, tmp_path / "step-1")[0]
    for weight, value in expected.items():
        assert torch.equal(after[weight], before[weight]), weight
        tolerance = {torch.float32: 1e-4, torch.float64: 1e-8}[dtype]
        assert (actual[weight] - value).abs().max() <= tolerance * value.abs().max(), weight


DETERMINED = {
    "one process": Layout(),
    "tensor": Layout(tensor=2, sequence=True),
    "pipeline": Layout(pipeline=2),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True, overlap=True),
    "context": Layout(context=2, context_exchange="alltoall"),
    "interleaved": Layout(pipeline=2, virtual_pipeline=2, recompute="full"),
    "branches on halves": Layout(tensor=2, sequence=True, branches="swapped", loss_chunk=8),
}
MIXED = {
    "experts": Layout(tensor=2, sequence=True, expert=2, expert_tensor=1),
    "experts and context": Layout(context=2, data=2, expert=4, distributed_optimizer=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", (DETERMINED | MIXED).values(), ids=(DETERMINED | MIXED).keys())
def test_the_same_layout_gives_the_same_bits_twice(layout, dtype):
    model = falcon_h1(tied=True, groups=2) if layout.expert == 1 else mixture(**BALANCED)
    trial = Trial(model=model | {"dropout": 0.2}, steps=4, dtype=dtype)
    first, second = run(trial, layout), run(trial, layout)
    assert first.losses == second.losses
    assert first.grad_norms == second.grad_norms
    assert all(torch.equal(second.weights[name], weight) for name, weight in first.weights.items())


@pytest.mark.parametrize("layout", DETERMINED.values(), ids=DETERMINED.keys())
def test_initial_weights_are_the_same_bits_under_every_layout(layout):
    trial = Trial(model=falcon_h1(tied=True, groups=2, depths=1), steps=0, dtype=torch.float32)
    expected, actual = run(trial, Layout()), run(trial, layout)
    assert expected.weights.keys() == actual.weights.keys()
    assert all(torch.equal(actual.weights[name], weight) for name, weight in expected.weights.items())


GROWING = {
    "overlapped": OVERLAPPED["distributed optimizer"],
    "pipeline": Layout(pipeline=2),
    "interleaved": Layout(pipeline=2, virtual_pipeline=2),
    "tensor and context": Layout(tensor=2, sequence=True, context=2),
}


@pytest.mark.parametrize("layout", GROWING.values(), ids=GROWING.keys())
def test_batches_may_grow_between_steps(layout):
    """The number of microbatches changes between steps, and what is waited for or sent before does not."""
    trial = Growing(model=falcon_h1(), steps=4)
    assert_equal_outcomes(run(trial, layout), run(trial, Layout()), trial, layout)


class Growing(Trial):
    """Every other step has half the rows."""

    def batch(self, step):
        return {name: rows[: len(rows) // (1 + step % 2)] for name, rows in super().batch(step).items()}
