"""A model costs what its parts cost."""

import pytest
import standins
from hypothesis import given
from hypothesis import strategies as st

from eyas.core import registry
from eyas.core.accounting import (
    block_parameters,
    flops_in_place,
    forward_flops,
    parameters,
    state_bytes,
    tail_flops,
    training_flops,
    vocabulary_rows,
)
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, norm_bytes
from eyas.core.weights import Coordinates

D, V, S = 6, 11, 8


@pytest.fixture(autouse=True)
def boxes(monkeypatch):
    """Boxes are the only mixers."""
    monkeypatch.setattr(registry, "mixers", lambda: standins.TABLE)


def spec(tied=False, repeat=2, tail=()):
    """Blocks of a box of width 2, then of boxes of width 2 and 4."""
    layers = {"small": {"kind": "box", "width": 2}, "large": {"kind": "box", "width": 4}}
    return load_model(
        {
            "hidden_size": D,
            "vocab_size": V,
            "layers": layers,
            "pattern": ["small", "small+large", *tail],
            "repeat": repeat,
            "tie_embeddings": tied,
        }
    )


@pytest.mark.parametrize(("tied", "matrices"), [(False, 2), (True, 1)])
def test_parameters_are_the_blocks_the_final_norm_and_the_vocabulary(tied, matrices):
    block, other = D + 2 * D, D + 6 * D
    assert block_parameters(spec(), spec().blocks[0]) == block
    assert block_parameters(spec(), spec().blocks[1]) == other
    assert parameters(spec(tied)) == 2 * (block + other) + D + matrices * V * D


def test_a_rank_has_the_whole_norm_and_its_part_of_the_mixers():
    assert block_parameters(spec(), spec().blocks[1], at=Coordinates.of(2)) == D + 3 * D


@given(vocab=st.integers(1, 99), tensor=st.integers(1, 9))
def test_vocabulary_rows_are_the_fewest_that_hold_every_token(vocab, tensor):
    model = {"hidden_size": 1, "vocab_size": vocab, "layers": {"a": {"kind": "box"}}, "pattern": "a"}
    rows = vocabulary_rows(load_model(model), Coordinates.of(tensor))
    assert (rows - 1) * tensor < vocab <= rows * tensor


@pytest.mark.parametrize(("convention", "each"), [("exact", 2), ("megatron", 1)])
def test_flops_are_the_mixers_and_the_head(convention, each):
    forward = 2 * (2 + 6) * S * each + 2 * D * V
    assert forward_flops(spec(), S, convention) == forward
    assert training_flops(spec(), S, convention) == 3 * forward


@pytest.mark.parametrize("tail", [[], ["/", "large"]])
def test_flops_in_place_are_the_whole_models_with_head_and_tail_behind_the_last_block(tail):
    model = spec(tail=tail)
    *others, last = flops_in_place(model, S)
    assert 3 * (sum(others) + last) == training_flops(model, S)
    assert others == [2 * 2 * S, 2 * 6 * S, 2 * 2 * S]
    assert last == 2 * 6 * S + 2 * D * V + tail_flops(model, S)


@pytest.mark.parametrize("element", [2, 4, 8])
def test_state_is_the_mixers(element):
    assert state_bytes(spec(), S, element) == 2 * (2 + 6) * S * element


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("element", [2, 4])
def test_blocks_cost_their_norm_and_their_mixers(tensor, sequence, element):
    at = Coordinates.of(tensor)
    share = RankShare(sequence_length=S, microbatch=3, at=at, sequence=sequence, element=element)
    costs = block_costs(spec(), share)
    assert [cost.index for cost in costs] == [0, 1, 2, 3]
    assert [cost.layers for cost in costs] == [("small",), ("small", "large")] * 2
    norm = norm_bytes(D, 3 * S, tensor if sequence else 1, element)
    for cost, width in zip(costs, (2, 6, 2, 6), strict=True):
        assert cost.parameters == D + width // tensor * D
        assert cost.forward_flops == 2 * width * S
        assert cost.activation_bytes == norm + width / tensor * 3 * S * element
        assert cost.state_bytes == width * S * element


def test_a_norms_statistics_are_kept_in_at_least_float32():
    tokens = 10
    assert norm_bytes(D, tokens, 1, 4) == tokens * (3 * D + 1) * 4
    assert norm_bytes(D, tokens, 1, 2) == tokens * (D * 4 + D * 2 + 4 + D * 2)
    assert norm_bytes(D, tokens, 2, 4) == tokens * (3 * D + 1) * 4 / 2


@pytest.mark.parametrize(("tensor", "rows"), [(1, V), (2, 6)])
def test_the_loss_keeps_a_norm_and_a_ranks_softmax_in_at_least_float32(tensor, rows):
    for element, wide in ((2, 4), (4, 4), (8, 8)):
        at = Coordinates.of(tensor)
        share = RankShare(sequence_length=S, microbatch=3, at=at, sequence=True, element=element)
        assert loss_bytes(spec(), share) == norm_bytes(D, 3 * S, tensor, element) + 3 * S * (rows * wide + 10)


@given(repeat=st.integers(1, 5), tied=st.booleans())
def test_costs_of_the_blocks_add_up_to_the_model(repeat, tied):
    model = spec(tied, repeat)
    costs = block_costs(model, RankShare(sequence_length=S, microbatch=1, element=2))
    outside = D + V * D * (1 if tied else 2)
    assert sum(cost.parameters for cost in costs) + outside == parameters(model)
    assert sum(cost.forward_flops for cost in costs) + 2 * D * V == forward_flops(model, S)
    assert sum(cost.state_bytes for cost in costs) == state_bytes(model, S, 2)


@pytest.mark.parametrize(("branches", "second"), [("halves", [2, 4]), ("swapped", [4, 2])])
def test_a_rank_has_one_of_two_branches_on_halves(branches, second):
    for rank, widths in enumerate(zip([2, 4], second, strict=True)):
        at = Coordinates(tensor_rank=rank, tensor=2, branches=branches)
        costs = block_costs(spec(), RankShare(sequence_length=S, microbatch=3, at=at))
        assert [cost.parameters for cost in costs] == [D + D, D + widths[0] * D, D + D, D + widths[1] * D]
        kept = [cost.activation_bytes - norm_bytes(D, 3 * S, 1, 4) for cost in costs]
        assert kept == [1 * 3 * S * 4, widths[0] * 3 * S * 4, 1 * 3 * S * 4, widths[1] * 3 * S * 4]
