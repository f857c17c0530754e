"""Any layout computes what one process computes, with the branches of a block on halves of the ranks too."""

import pytest
from drawn import ON_WORKERS
from hypothesis import given
from hypothesis import strategies as st
from models import falcon_h1, hymba

from eyas.core.errors import LayoutError
from eyas.core.model import load_model
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout

LAYOUTS = {
    "halves": Layout(tensor=2, branches="halves"),
    "halves and sequence": Layout(tensor=2, sequence=True, branches="halves"),
    "halves of four ranks": Layout(tensor=4, sequence=True, branches="halves"),
    "swapped": Layout(tensor=2, sequence=True, branches="swapped"),
    "swapped halves of four ranks": Layout(tensor=4, branches="swapped"),
    "swapped, pipeline": Layout(tensor=2, pipeline=2, branches="swapped"),
    "halves, exchanged heads": Layout(tensor=2, branches="halves", context=2, context_exchange="alltoall"),
    "swapped, distributed optimizer": Layout(tensor=2, data=2, branches="swapped", distributed_optimizer=True),
    "halves, distributed optimizer in parts": Layout(
        tensor=2, sequence=True, data=2, branches="halves", distributed_optimizer=True, overlap=True
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_branches_on_halves_change_nothing(layout):
    assert_layout_changes_nothing(falcon_h1(repeat=3, ssm_heads=8), layout)


@pytest.mark.parametrize("name", ["halves and sequence", "swapped halves of four ranks"])
def test_averaged_branches_may_lie_on_halves(name):
    model = hymba(repeat=2)
    model["layers"]["ssm"]["output_bias"] = False
    assert_layout_changes_nothing(model, LAYOUTS[name])


@pytest.mark.slow
@ON_WORKERS
@given(
    layout=st.sampled_from(list(LAYOUTS.values())),
    groups=st.sampled_from([1, 2, 4]),
    norm=st.booleans(),
    depths=st.sampled_from([0, 2]),
    documents=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_layout_changes_nothing(layout, groups, norm, depths, documents, seed):
    model = falcon_h1(groups=groups, norm=norm, depths=depths, repeat=3)
    assert_layout_changes_nothing(model, layout, documents=documents, seed=seed)


def refused(layout, **changes):
    model = falcon_h1() | changes
    with pytest.raises(LayoutError) as error:
        check_fits(load_model(model), layout, 16)
    return str(error.value)


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(LayoutError, match="layout.branches=halves needs two halves, but layout.tensor=1"):
        Layout(branches="halves")
    halves = Layout(tensor=2, branches="halves")
    assert "divides blocks of two branches, and the model has none" in refused(halves, pattern=["ssm", "ffn"])
    biased = refused(halves, pattern=["ssm+ffn"])
    assert "cannot put model.layers.ffn (mlp) on half of the ranks: it adds an output bias" in biased
    whole, half = Layout(tensor=8, branches="halves"), "(each branch lies on half of the ranks)"
    check_fits(load_model(falcon_h1(heads=4, kv_heads=2) | {"pattern": ["ssm+attn"]}), whole, 16)
    exchanging = {"context": 2, "context_exchange": "alltoall"}
    check_fits(load_model(falcon_h1()), Layout(tensor=4, branches="halves", **exchanging), 16)
    assert half in refused(Layout(tensor=8, branches="halves", **exchanging), pattern=["ssm+attn"])
    assert half in refused(Layout(tensor=16, branches="halves"), pattern=["ssm+attn"])
