"""Ranks that share each sequence compute what one process computes."""

import mixers
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from models import BALANCED, MIXERS, PENALISED, falcon_h1, holding, hymba, mixture, zamba2

from eyas.core.model import load_model
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.layers.testing.case import splits
from eyas.parallel.layout import Layout

SHARED = {
    "two ranks, zigzag": Layout(context=2),
    "two ranks, contiguous": Layout(context=2, context_order="contiguous"),
    "four ranks, zigzag": Layout(context=4),
    "four ranks, contiguous": Layout(context=4, context_order="contiguous"),
}
ATTENTION = {
    "kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "qk_norm": True, "sinks": True,
}  # fmt: skip
WINDOW = {"kind": "attention", "num_heads": 4, "head_dim": 4, "window": 3}
SINKING = WINDOW | {"window": 5, "sink_tokens": 2}
MAMBA2 = {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "num_groups": 2, "chunk_size": 4}
KINDS = {"attention": ATTENTION, "window": WINDOW, "sink tokens": SINKING, "mamba2": MAMBA2, **MIXERS}


@pytest.mark.parametrize("layout", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("mixer", KINDS.values(), ids=KINDS.keys())
def test_every_mixer_is_the_same_where_ranks_share_sequences(mixer, layout):
    assert_layout_changes_nothing(holding(mixer), layout, documents=True)


COMBINED = {
    "tensor and sequence": Layout(tensor=2, sequence=True, context=2),
    "tensor alone": Layout(tensor=2, context=2, context_order="contiguous"),
    "pipeline": Layout(pipeline=2, context=2),
    "data": Layout(data=2, context=2, context_order="contiguous"),
    "distributed optimizer": Layout(data=2, context=2, distributed_optimizer=True),
    "distributed optimizer over context ranks alone": Layout(context=2, distributed_optimizer=True),
}


@pytest.mark.parametrize("layout", COMBINED.values(), ids=COMBINED.keys())
def test_falcon_h1_with_a_tail_is_the_same_where_all_is_combined(layout):
    assert_layout_changes_nothing(falcon_h1(depths=2, tied=True), layout, documents=layout.tensor == 1, microbatch=2)


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


@pytest.mark.parametrize("mixer", [ATTENTION, SINKING, MIXERS["mla"]], ids=["attention", "sink tokens", "mla"])
@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
@pytest.mark.parametrize("documents", [False, True])
def test_heads_are_exchanged_for_tokens_and_nothing_changes(mixer, order, documents):
    layout = Layout(context=2, context_order=order, context_exchange="alltoall")
    assert_layout_changes_nothing(holding(mixer), layout, documents=documents)


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
