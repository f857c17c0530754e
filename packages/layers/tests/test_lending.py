"""Attention that uses the keys and values of an earlier block."""
# S sequence, B batch, V vocabulary

import mixers
import models
import pytest
import torch

from eyas.core.accounting import parameters, state_bytes
from eyas.core.errors import ConfigError, LayoutError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes
from eyas.core.recompute import check_recompute
from eyas.layers.model import HybridLM
from eyas.parallel.branches import check_halves
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of

TOKENS_BS = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(3))
ALONE = {
    "near": {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "lends_kv": "near"},
    "same": {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "borrows_kv": "near"},
}
WHOLE = {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4}
MLP = {"kind": "mlp", "intermediate_size": 8}


def build(model, seed=1):
    spec = load_model(model)
    lm = HybridLM(spec, Context(Placement(dtype=torch.float64))).initialise(seed)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return lm


def two_layers(**changes):
    return {"hidden_size": 16, "vocab_size": 50, "pattern": ["near", "same"], "layers": ALONE} | changes


def test_a_borrower_is_attention_whose_keys_come_from_another_block():
    """By its definition: the later block's queries over the earlier block's keys and values."""
    lm = build(two_layers())
    (near, same), x_SBD = (block.branches for block in lm.blocks.values()), mixers.noise(9, 2, 16, seed=4)
    lender, borrower, context = near["near"], same["same"], mixers.alone()
    lender(mixers.noise(9, 2, 16, seed=5), context)
    found = borrower(x_SBD, context)
    whole = mixers.build({name: value for name, value in ALONE["near"].items() if name != "lends_kv"}, hidden_size=16)
    with torch.no_grad():
        for name in "qo":
            getattr(whole, name).copy_(getattr(borrower, name))
    q_SBHP = whole.turn("q", whole.project("q", x_SBD), 0)
    k_SBKP, v_SBKP = lender.keys_and_values(mixers.noise(9, 2, 16, seed=5), 0)
    torch.testing.assert_close(found, whole.output(whole.attend(q_SBHP, k_SBKP, v_SBKP, None)), rtol=1e-12, atol=1e-12)


def test_gradients_of_all_borrowers_reach_the_lender():
    lm = build(two_layers(pattern=["near", "same", "same"]))
    lm(TOKENS_BS, TOKENS_BS.roll(-1, 1)).sum().backward()
    both = lm.blocks["0"].branches["near"].k.grad.clone()
    lm.zero_grad()
    lm.blocks["2"].branches["same"].o.data.zero_()
    lm(TOKENS_BS, TOKENS_BS.roll(-1, 1)).sum().backward()
    assert not torch.allclose(lm.blocks["0"].branches["near"].k.grad, both)


@pytest.mark.parametrize("model", [two_layers(), models.lending(), models.lending(meta_tokens=0)], ids=str)
def test_decoding_equals_the_forward_pass(model):
    lm = build(model)
    expected_SBV = lm(TOKENS_BS)
    states, found = lm.initial_state(2), []
    hidden_SBD, states = lm.prefill(TOKENS_BS[:, :5], states)
    found += list(lm.logits(lm.final_norm(hidden_SBD), lm.context))
    for tokens_B in TOKENS_BS[:, 5:].unbind(1):
        logits_BV, states = lm.step(tokens_B, states)
        found.append(logits_BV)
    torch.testing.assert_close(torch.stack(found), expected_SBV, rtol=1e-9, atol=1e-9)


def test_packed_documents_are_kept_apart():
    lm = build(models.lending(meta_tokens=0))
    documents_BS = (torch.arange(11) >= 6).long().expand(2, -1)
    whole = lm(TOKENS_BS, documents_BS=documents_BS)
    torch.testing.assert_close(whole[6:], lm(TOKENS_BS[:, 6:]), rtol=1e-9, atol=1e-9)


def test_weights_state_and_saved_bytes_are_as_counted():
    lm = build(models.lending(meta_tokens=0))
    spec = lm.spec
    assert parameters(spec) == sum(parameter.numel() for parameter in lm.parameters())
    _, states = lm.prefill(TOKENS_BS, lm.initial_state(2))
    kept = sum(tensor.nbytes for tensor in mixers.tensors(states))
    assert kept == 2 * state_bytes(spec, 11, element=8)
    share = RankShare(sequence_length=11, microbatch=2, element=8)
    counted = sum(cost.activation_bytes for cost in block_costs(spec, share)) + loss_bytes(spec, share)
    known = [*lm.parameters(), TOKENS_BS, *mixers.rotary_tables(spec, 11, torch.float64)]
    assert mixers.bytes_kept(lambda: lm(TOKENS_BS, TOKENS_BS.roll(-1, 1)), known) == counted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": ["same", "near"]}, "model.layers.same borrows 'near', which no block before it lends; .*nothing"),
        ({"pattern": ["near+same"]}, "model.layers.same borrows 'near', which no block before it lends"),
        ({"pattern": "near, same / same"}, "model.pattern: layer 'same' borrows from another block and cannot stand"),
        (
            {"layers": ALONE | {"same": ALONE["same"] | {"head_dim": 2}}},
            "model.layers.same.borrows_kv=near needs the lender's head_dim: 4, not 2",
        ),
        (
            {"layers": ALONE | {"same": ALONE["same"] | {"window": 3}}},
            "model.layers.same.borrows_kv=near needs the lender's window: None, not 3",
        ),
        (
            {"layers": ALONE | {"same": ALONE["same"] | {"key_multiplier": 2.0}}},
            "model.layers.same.key_multiplier=2.0 is for keys of its own",
        ),
        (
            {"layers": ALONE | {"same": ALONE["same"] | {"lends_kv": "more"}}},
            "model.layers.same.lends_kv=more is for keys of its own",
        ),
    ],
)
def test_what_cannot_be_borrowed_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_model(two_layers(**changes))


def test_what_is_lent_does_not_cross_pipeline_stages():
    with pytest.raises(
        LayoutError, match="2 pipeline stages: layer 'same' borrows 'near' on stage 1, which is lent on"
    ):
        stages_of(load_model(two_layers()), Layout(pipeline=2), 16)
    behind = two_layers(pattern=["ffn", "near", "same"], layers=ALONE | {"ffn": MLP})
    assert stages_of(load_model(behind), Layout(pipeline=2, stages="auto"), 16) == [range(1), range(1, 3)]


@pytest.mark.parametrize("recompute", ["full", ("attention",)])
def test_what_is_lent_is_not_computed_again(recompute):
    with pytest.raises(LayoutError, match="cannot repeat model.layers.near, which shares 'near' with other blocks"):
        check_recompute(recompute, load_model(two_layers()))
    check_recompute(("norm",), load_model(two_layers()))
    check_recompute(recompute, load_model(two_layers(pattern=["whole"], layers=ALONE | {"whole": WHOLE})))


def test_branches_on_halves_of_the_ranks_lend_nothing():
    spec = load_model(two_layers(pattern=["near+ffn", "same+ffn"], layers=ALONE | {"ffn": MLP}))
    with pytest.raises(LayoutError, match="cannot divide model.layers.near, which shares 'near' with other blocks"):
        check_halves(spec, Layout(tensor=2, branches="halves"))
