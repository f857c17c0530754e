"""Any layout computes what one process computes, with mixtures of experts too."""

import pytest
from drawn import ON_WORKERS
from hypothesis import given
from hypothesis import strategies as st
from models import BALANCED, PENALISED, mixture

from eyas.layers.testing import Trial, assert_checkpoint_loads, assert_layout_changes_nothing
from eyas.parallel.layout import Layout

LAYOUTS = {
    "tensor and sequence": Layout(tensor=2, sequence=True),
    "all-gather": Layout(tensor=2, sequence=True, dispatcher="allgather"),
    "pipeline": Layout(pipeline=2),
    "data": Layout(data=2),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True),
    "tensor, sequence and pipeline": Layout(tensor=2, sequence=True, pipeline=2),
    "expert": Layout(data=2, expert=2),
    "expert and tensor": Layout(tensor=2, sequence=True, data=2, expert=2),
    "folded": Layout(tensor=2, sequence=True, expert=2, expert_tensor=1),
    "folded, all-gather": Layout(tensor=2, sequence=True, data=2, expert=4, expert_tensor=1, dispatcher="allgather"),
    "folded the other way": Layout(data=4, expert=2, expert_tensor=2, distributed_optimizer=True),
    "replicas inside a tensor group": Layout(tensor=2, sequence=True, expert_tensor=1),
    "expert and pipeline": Layout(data=2, pipeline=2, expert=2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("options", [BALANCED, PENALISED], ids=["balanced by bias", "by losses"])
def test_a_mixture_is_the_same_under_every_kind_of_layout(layout, options):
    assert_layout_changes_nothing(mixture(**options), layout)


CHECKPOINTS = [("expert", "folded"), ("folded, all-gather", "expert and tensor")]


@pytest.mark.parametrize(("first", "second"), CHECKPOINTS)
def test_a_checkpoint_of_one_grid_loads_on_another_and_on_one_process(first, second):
    trial = Trial(model=mixture(**BALANCED))
    assert_checkpoint_loads(trial, LAYOUTS[first], LAYOUTS[second])
    assert_checkpoint_loads(trial, LAYOUTS[second], Layout())


@ON_WORKERS
@given(
    options=st.sampled_from([{}, BALANCED, PENALISED]),
    layout=st.sampled_from(list(LAYOUTS.values())),
    documents=st.booleans(),
    microbatch=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
def test_a_layout_changes_nothing(options, layout, documents, microbatch, seed):
    assert_layout_changes_nothing(
        mixture(**options), layout, global_batch=layout.data * microbatch * 2, microbatch=microbatch,
        documents=documents, seed=seed,
    )  # fmt: skip
