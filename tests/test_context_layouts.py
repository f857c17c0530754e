"""Ranks that share each sequence compute what one process computes."""

import mixers
import pytest
import torch
from drawn import ON_WORKERS
from hypothesis import assume, given
from hypothesis import strategies as st
from models import BALANCED, MIXERS, PENALISED, falcon_h1, holding, hymba, lending, mixture, zamba2

from eyas.core.model import load_model
from eyas.layers.testing import (
    Trial,
    assert_checkpoint_loads,
    assert_layout_changes_nothing,
)
from eyas.layers.testing.case import Case, output, splits
from eyas.layers.testing.costs import bytes_kept, kept_tensors
from eyas.parallel import groups
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool
from eyas.parallel.this_rank import context_here

SHARED = {
    "two ranks, zigzag": Layout(context=2),
    "four ranks, contiguous": Layout(context=4, context_order="contiguous"),
}
MORE = {
    "two ranks, contiguous": Layout(context=2, context_order="contiguous"),
    "four ranks, zigzag": Layout(context=4),
}
ATTENTION = {
    "kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "qk_norm": True, "sinks": True,
}  # fmt: skip
KEYS = {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
WINDOW = {"kind": "attention", "num_heads": 4, "head_dim": 4, "window": 3}
SINKING = WINDOW | {"window": 5, "sink_tokens": 2}
MAMBA2 = {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "num_groups": 2, "chunk_size": 4}
KINDS = {"attention": ATTENTION, "window": WINDOW, "sink tokens": SINKING, "mamba2": MAMBA2, **MIXERS}


@pytest.mark.parametrize("layout", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("mixer", KINDS.values(), ids=KINDS.keys())
def test_every_mixer_is_the_same_where_ranks_share_sequences(mixer, layout):
    assert_layout_changes_nothing(holding(mixer), layout, documents=True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", MORE.values(), ids=MORE.keys())
@pytest.mark.parametrize("mixer", KINDS.values(), ids=KINDS.keys())
def test_every_mixer_is_the_same_in_the_other_order(mixer, layout):
    assert_layout_changes_nothing(holding(mixer), layout, documents=True)


COMBINED = {
    "tensor and sequence": Layout(tensor=2, sequence=True, context=2),
    "tensor alone": Layout(tensor=2, context=2, context_order="contiguous"),
    "pipeline": Layout(pipeline=2, context=2),
    "interleaved pipeline": Layout(pipeline=2, virtual_pipeline=2, context=2),
    "data": Layout(data=2, context=2, context_order="contiguous"),
    "distributed optimizer": Layout(data=2, context=2, distributed_optimizer=True),
    "distributed optimizer over context ranks alone": Layout(context=2, distributed_optimizer=True),
    "branches on halves": Layout(tensor=2, sequence=True, context=2, branches="halves"),
}


@pytest.mark.parametrize("layout", COMBINED.values(), ids=COMBINED.keys())
def test_falcon_h1_with_a_tail_is_the_same_where_all_is_combined(layout):
    model = falcon_h1(depths=2, tied=True)
    assert_layout_changes_nothing(model, layout, documents=layout.tensor == 1, global_batch=8, microbatch=2)


def test_falcon_h1_is_the_same_on_eight_ranks():
    layout = Layout(tensor=2, sequence=True, pipeline=2, context=2)
    assert_layout_changes_nothing(falcon_h1(), layout, documents=True)


@pytest.mark.parametrize(
    "layout", [Layout(context=2), Layout(context=4, context_order="contiguous"), COMBINED["tensor and sequence"]]
)
def test_meta_tokens_are_the_same(layout):
    assert_layout_changes_nothing(hymba(), layout, sequence_length=20)


MIXTURES = {
    "context alone": Layout(context=2),
    "tensor and sequence": COMBINED["tensor and sequence"],
    "experts over context ranks": Layout(context=2, expert=2),
    "experts over tensor and context ranks": Layout(tensor=2, sequence=True, context=2, expert=4, expert_tensor=1),
    "experts over context ranks and replicas": Layout(data=2, context=2, expert=4, context_order="contiguous"),
}


@pytest.mark.parametrize("layout", MIXTURES.values(), ids=MIXTURES.keys())
@pytest.mark.parametrize("options", [BALANCED, PENALISED], ids=["balanced by bias", "by losses"])
def test_a_mixture_is_the_same(options, layout):
    assert_layout_changes_nothing(mixture(**options), layout, microbatch=2)


def test_shared_blocks_are_the_same():
    assert_layout_changes_nothing(zamba2(), Layout(context=2))


BESIDE = {
    "meta tokens, chunked loss, recomputation": (hymba(), Layout(context=2, loss_chunk=3, recompute="full")),
    "dropout": (falcon_h1() | {"dropout": 0.2}, Layout(context=2)),
    "lent keys and values": (lending(), Layout(context=2)),
    "lent keys and values by heads": (lending(), Layout(context=2, context_exchange="alltoall")),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_is_the_same(name):
    model, layout = BESIDE[name]
    assert_layout_changes_nothing(model, layout, sequence_length=20)


BY_HEADS = {name: mixer for name, mixer in KINDS.items() if name not in ("window", "mamba1")}


@pytest.mark.parametrize("mixer", BY_HEADS.values(), ids=BY_HEADS.keys())
@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
def test_heads_are_exchanged_for_tokens_and_nothing_changes(mixer, order):
    layout = Layout(context=2, context_order=order, context_exchange="alltoall")
    assert_layout_changes_nothing(holding(mixer), layout, documents=order == "zigzag")


FEWER = {
    "attention": ATTENTION,
    "mamba2": MAMBA2 | {"conv_bias": False},
    "gated_delta_net": MIXERS["gated_delta_net"],
}


@pytest.mark.parametrize("mixer", FEWER.values(), ids=FEWER.keys())
def test_ranks_share_key_value_heads_and_groups_that_are_fewer(mixer):
    assert_layout_changes_nothing(holding(mixer), Layout(context=4, context_exchange="alltoall"), documents=True)


WITHIN = {
    "falcon_h1": falcon_h1(),
    **{name: holding(MIXERS[name]) for name in ("gated_delta_net", "linear_attention")},
}


@pytest.mark.parametrize("model", WITHIN.values(), ids=WITHIN.keys())
def test_heads_are_exchanged_within_tensor_parallel_ranks(model):
    layout = Layout(tensor=2, sequence=True, context=2, context_exchange="alltoall")
    assert_layout_changes_nothing(model, layout, documents=True)


@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
def test_checkpoints_move_to_ranks_that_share_sequences_and_back(order):
    trial, shared = Trial(model=falcon_h1()), Layout(context=2, context_order=order)
    assert_checkpoint_loads(trial, Layout(tensor=2), shared)
    assert_checkpoint_loads(trial, shared, Layout())


@pytest.mark.parametrize("options", [KEYS, KEYS | {"qk_norm": True}], ids=["plain", "with norms"])
def test_gathered_bytes_are_those_kept_beside_a_rank_s_own(options):
    first, last = pool(2).run(kept_and_stated, options, Layout(context=2, context_order="contiguous"))
    mask = 32 * 64 * 4
    assert first[0] == first[1]
    assert last[0] == last[1] + mask


def kept_and_stated(options, layout):
    """Bytes that this rank keeps of attention over two sequences of 64 tokens, and those that its Config states."""
    groups.initialise(layout)
    case = Case(options=options, hidden_size=16, length=32, batch=2, seed=0)
    module, twin = case.module(dtype=torch.float32), case.module(dtype=torch.float32)
    context, x_SBD = context_here(layout, torch.float32).of(64, None), case.x(dtype=torch.float32).requires_grad_()
    known = [x_SBD, *module.parameters(), *twin.parameters()]
    shared = kept_tensors(lambda: output(twin, x_SBD, context), known)  # the table of rotations
    kept = bytes_kept(lambda: output(module, x_SBD, context), [*known, *shared])
    return kept, case.config.activation_bytes(16, 32, 2) + case.config.gathered_bytes(2 * 32)


@st.composite
def shared_sequences(draw):
    """Layouts of at most four processes that share sequences, among other things."""
    context = draw(st.sampled_from([2, 4]))
    other = draw(st.sampled_from(["tensor", "pipeline", "data", None])) if context == 2 else None
    sizes = {} if other is None else {other: 2}
    return Layout(
        **sizes,
        context=context,
        context_order=draw(st.sampled_from(["zigzag", "contiguous"])),
        sequence=other == "tensor" and draw(st.booleans()),
        distributed_optimizer=draw(st.booleans()),
    )


@pytest.mark.slow
@ON_WORKERS
@given(
    mixer=st.one_of(
        mixers.attention(), mixers.mla(), mixers.mamba1(), mixers.mamba2(), mixers.gated_delta_net(),
        mixers.linear_attention(),
    ),
    layout=shared_sequences(),
    documents=st.booleans(),
    length=st.sampled_from([16, 24, 32]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_layout_changes_nothing(mixer, layout, documents, length, seed):
    model = holding(mixer)
    assume(splits(load_model(model).layers["mixer"], model["hidden_size"], layout.tensor))
    assert_layout_changes_nothing(model, layout, documents=documents, sequence_length=length, seed=seed)
