"""Blocks with options: how they stand in a pattern, what is refused, what they cost."""

import pytest
import standins
from hypothesis import given
from hypothesis import strategies as st

from eyas.core import registry
from eyas.core.accounting import block_flops, forward_flops, parameters, state_bytes
from eyas.core.arrangement import check_stages
from eyas.core.errors import ConfigError, LayoutError, PatternError
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs
from eyas.core.weights import Coordinates

D, V, S = 6, 11, 8


@pytest.fixture(autouse=True)
def boxes(monkeypatch):
    """Boxes are the only mixers."""
    monkeypatch.setattr(registry, "mixers", lambda: standins.TABLE)


def spec(pattern, blocks, **changes):
    """A model of boxes `a` and `b` of width 2 and 4."""
    layers = {"a": {"kind": "box", "width": 2}, "b": {"kind": "box", "width": 4}}
    model = {"hidden_size": D, "vocab_size": V, "layers": layers, "pattern": pattern, "blocks": blocks}
    return load_model(model | changes)


def test_a_blocks_name_stands_for_its_layers_and_options():
    model = spec(["a", "pair", "b"], {"pair": {"layers": "a+b", "combine": "normalised_mean"}}, repeat=2)
    assert [block.layers for block in model.blocks] == [("a",), ("a", "b"), ("b",)] * 2
    assert [block.name for block in model.blocks] == [None, "pair", None] * 2
    assert [block.norms_behind for block in model.blocks] == [0, 2, 0] * 2
    assert str(model.pattern) == "[a, pair, b] x2"


SHARED = {"layers": "a", "shared": True}
WIDE = {"layers": "a", "reads": "stream_and_embedding"}


def adapted(rank=1, layer="a", matrices=("matrix",), shared=True):
    return {"c": {"layers": "a", "shared": shared, "adapter_rank": rank, "adapters": {layer: list(matrices)}}}


REFUSED = {
    "unknown block": (["c"], {}, "unknown layer 'c'; there are: a, b"),
    "near block": (["pai"], {"pair": {"layers": "a+b"}}, "unknown layer 'pai'; did you mean 'pair'?"),
    "unknown layer": (["c"], {"c": {"layers": "a+d"}}, "model.blocks.c.layers: unknown layer 'd'"),
    "layer twice": (["c"], {"c": {"layers": "a+a"}}, "model.blocks.c.layers=a.a names a layer twice"),
    "name of a layer": (["a"], {"a": {"layers": "b"}}, "model.blocks.a has the name of a layer"),
    "beside a layer": (["c+b"], {"c": {"layers": "a"}}, "model.pattern: c.b: 'c' is a whole block"),
    "in the tail": (["a", "/", "c"], {"c": {"layers": "a"}}, "model.pattern: block 'c' cannot stand in the tail"),
    "unknown option": (["c"], {"c": {"layers": "a", "sharde": True}}, "model.blocks.c: unknown option 'sharde'"),
    "no writer": (["a", "c"], {"c": {"layers": "a", "reads": "aside"}}, "model.blocks.c reads aside, but"),
    "no reader": (["a", "c"], {"c": {"layers": "a", "writes": "aside"}}, "model.blocks.c writes aside, but no block"),
    "two widths": (["a", "c"], {"c": WIDE}, r"model.layers.a \(box\) reads a width of 6, but block c gives 12"),
    "width in the tail": (["c", "/", "a"], {"c": WIDE}, r"model.layers.a \(box\) reads a width of 6"),
    "width": (["c"], {"c": WIDE}, r"model.layers.a \(box\) reads a width of 6"),
    "own adapters": (["c"], adapted(shared=False), "set shared=true"),
    "no rank": (["c"], {"c": SHARED | {"adapters": {"a": ["matrix"]}}}, "model.blocks.c.adapter_rank and adapters go"),
    "no adapters": (["c"], {"c": SHARED | {"adapter_rank": 1}}, "model.blocks.c.adapter_rank and adapters go"),
    "rank": (["c"], adapted(rank=0), "adapter_rank=0 must be at least 1"),
    "adapted layer": (["c"], adapted(layer="b"), "unknown layer 'b'"),
    "adapted weight": (
        ["c"], adapted(matrices=["matrx"]), "model.blocks.c.adapters.a: unknown matrix 'matrx'; did you mean 'matrix'?",
    ),
    "adapted twice": (
        ["c"], adapted(matrices=["matrix", "matrix"]), "model.blocks.c.adapters.a names a matrix twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(case):
    pattern, blocks, message = REFUSED[case]
    with pytest.raises((ConfigError, PatternError), match=message):
        spec(pattern, blocks)


def stages(pattern, blocks, cut):
    model = spec(pattern, blocks)
    check_stages(model.blocks, [range(cut), range(cut, len(model.blocks))], model.layers)


def test_a_shared_block_stands_on_one_stage():
    with pytest.raises(LayoutError, match="2 pipeline stages: shared block 'c' stands on stages 0, 1"):
        stages(["c", "b", "c", "b"], {"c": SHARED}, 2)
    stages(["c", "b", "c", "b"], {"c": SHARED}, 3)
    stages(["c", "b", "c", "b"], {"c": {"layers": "a"}}, 2)


def test_what_a_block_reads_is_on_its_stage():
    aside = {"c": {"layers": "a", "writes": "aside"}}
    with pytest.raises(LayoutError, match="2 pipeline stages: stage 1 begins behind block 'c', which writes aside"):
        stages(["c", "b", "b"], aside, 1)
    stages(["c", "b", "b"], aside, 2)


@given(places=st.integers(1, 5), tensor=st.sampled_from([1, 2]))
def test_a_shared_blocks_weights_count_once_and_a_places_own_everywhere(places, tensor):
    model = spec(["c", "b"], {"c": adapted(rank=3)["c"] | {"projection": True}}, repeat=places)
    share = RankShare(sequence_length=S, microbatch=2, at=Coordinates.of(tensor))
    costs = block_costs(model, share)
    own = D * D + 3 * D + 3 * 2 // tensor
    assert [cost.parameters for cost in costs[::2]] == [own + D + 2 * D // tensor] + [own] * (places - 1)
    assert {cost.layers for cost in costs} == {("c",), ("b",)}
    if tensor == 1:
        assert sum(cost.parameters for cost in costs) + D + 2 * V * D == parameters(model)
    inside = spec(["a", "b"], {}, repeat=places)
    flops = forward_flops(model, S) - forward_flops(inside, S)
    assert flops == places * 2 * (D * D + 3 * D + 3 * 2)
    kept = [each.activation_bytes - plain.activation_bytes for each, plain in zip(
        costs, block_costs(inside, share), strict=True
    )]  # fmt: skip
    assert kept == [S * 2 * D * 4 + 2 * D // tensor * 4, 0] * places


@given(meta_tokens=st.integers(0, 9))
def test_meta_tokens_cost_what_longer_sequences_cost(meta_tokens):
    model, plain = spec(["a", "b"], {}, meta_tokens=meta_tokens), spec(["a", "b"], {})
    longer = S + meta_tokens
    assert parameters(model) == parameters(plain) + meta_tokens * D
    assert state_bytes(model, S) == state_bytes(plain, longer)
    for block, same in zip(model.blocks, plain.blocks, strict=True):
        assert block_flops(model, block, S) * S == pytest.approx(block_flops(plain, same, longer) * longer)
    costs, others = (
        block_costs(each, RankShare(sequence_length=length, microbatch=2))
        for each, length in ((model, S), (plain, longer))
    )
    assert [cost.activation_bytes for cost in costs] == [cost.activation_bytes for cost in others]


def test_fewer_than_no_meta_tokens_are_refused():
    with pytest.raises(ConfigError, match="model.meta_tokens=-1 must not be negative"):
        spec(["a"], {}, meta_tokens=-1)
