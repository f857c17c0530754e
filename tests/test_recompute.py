"""What is recomputed in the backward pass changes no number, and what is kept is what the closed forms say."""
# S sequence, B batch

import mixers
import pytest
import torch
from models import MIXERS, falcon_h1, holding, hymba, mixture, zamba2

from eyas.core.errors import LayoutError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, tail_bytes
from eyas.core.recompute import check_recompute, roles
from eyas.core.registry import mixers as mixers_by_kind
from eyas.layers.model import HybridLM
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout

S, B = 24, 2
MODELS = {
    "falcon_h1": falcon_h1(depths=2),
    "hymba": hymba(),
    "zamba2": zamba2(repeat=1),
    "mixture": mixture(balance_loss=0.3, z_loss=0.1, shared_size=8, score="sigmoid", selection_bias_rate=1e-3),
} | {name: holding(mixer) for name, mixer in MIXERS.items()}


def choices(model):
    """Each role of a model alone, all of them, and whole blocks."""
    every = tuple(sorted(roles(load_model(model))))
    return [*((role,) for role in every), every, "full"]


CASES = [(name, choice) for name, model in MODELS.items() for choice in choices(model)]


def named(case):
    name, choice = case
    return f"{name}, {choice if choice == 'full' else '+'.join(choice) or 'nothing'}"


def built(model, recompute, dtype=torch.float64):
    return HybridLM(load_model(model), Context(Placement(dtype=dtype), recompute=recompute)).initialise(0)


def batch(lm, packed=False):
    """Tokens, labels and documents, (B, S)."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, lm.spec.vocab_size, (B, S), generator=generator) for _ in range(2))
    return tokens, labels, mixers.documents(S, B).t() if packed and not lm.spec.meta_tokens else None


def minimised(lm, *batch):
    losses = lm(*batch)
    return losses.minimised_SB if lm.spec.depths else losses


def trained(model, recompute):
    """Loss and gradients of a microbatch of packed documents, and what mixtures counted."""
    lm = built(model, recompute)
    loss_SB = minimised(lm, *batch(lm, packed=True))
    loss_SB.sum().backward()
    seen = {name: module.seen for name, module in lm.named_modules() if hasattr(module, "seen")}
    return {"loss": loss_SB.detach(), **{name: p.grad for name, p in lm.named_parameters()}, **seen}


@pytest.mark.parametrize("case", CASES, ids=named)
def test_recomputing_changes_no_bit(case):
    name, choice = case
    expected, found = (trained(MODELS[name], recompute) for recompute in ((), choice))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), f"{key} differs by {(found[key] - tensor).abs().max():.1e}"


@pytest.mark.parametrize("case", [(name, ()) for name in MODELS] + CASES, ids=named)
def test_kept_bytes_are_those_stated(case):
    name, choice = case
    dtype = torch.bfloat16 if name in ("falcon_h1", "hymba") else torch.float32
    lm = built(MODELS[name], choice, dtype)
    tokens, labels, _ = batch(lm)
    known = [*lm.parameters(), *lm.buffers(), tokens, *mixers.rotary_tables(lm.spec, S + lm.spec.meta_tokens, dtype)]
    kept = mixers.bytes_kept(lambda: minimised(lm, tokens, labels), known)
    share = RankShare(sequence_length=S, microbatch=B, element=dtype.itemsize, recompute=choice)
    stated = sum(cost.activation_bytes for cost in block_costs(lm.spec, share))
    assert kept == stated + tail_bytes(lm.spec, share) + loss_bytes(lm.spec, share)


LAYOUTS = {
    "the norms' results are gathered again": (falcon_h1(), Layout(tensor=2, sequence=True, recompute=("norm",))),
    "one branch of two": (falcon_h1(groups=2), Layout(tensor=2, sequence=True, recompute=("ssm",))),
    "blocks of stages, with a tail": (
        falcon_h1(depths=1),
        Layout(tensor=2, sequence=True, pipeline=2, recompute="full"),
    ),
    "everything by role": (
        mixture(balance_loss=0.3, shared_size=8, score="sigmoid", selection_bias_rate=1e-2),
        Layout(tensor=2, sequence=True, data=2, recompute=("norm", "moe", "ssm", "attention")),
    ),
    "shared blocks": (zamba2(), Layout(tensor=2, recompute=("mlp", "attention"))),
    "shared blocks as a whole": (zamba2(), Layout(tensor=2, recompute="full")),
    "branches on halves": (
        falcon_h1(repeat=2),
        Layout(tensor=2, sequence=True, branches="swapped", recompute=("norm", "ssm")),
    ),
    "experts in a grid of their own": (
        mixture(shared_size=8, score="sigmoid", selection_bias_rate=1e-2),
        Layout(tensor=2, sequence=True, expert=2, expert_tensor=1, recompute=("moe", "norm")),
    ),
    "sequences shared by ranks": (
        falcon_h1(),
        Layout(context=2, tensor=2, sequence=True, recompute=("norm", "ssm", "attention")),
    ),
    "with dropout": (falcon_h1() | {"dropout": 0.2}, Layout(tensor=2, sequence=True, recompute="full")),
    "interleaved stages": (
        falcon_h1(repeat=2),
        Layout(pipeline=2, virtual_pipeline=2, recompute="full"),
    ),
    "behind meta tokens": (hymba(), Layout(tensor=2, sequence=True, pipeline=2, recompute=("norm", "ssm"))),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_recomputing_under_a_layout_changes_nothing(case):
    assert_layout_changes_nothing(*LAYOUTS[case], documents="meta" not in case)


def test_a_mixer_that_does_not_say_has_its_name_as_its_role():
    assert {kind: registered.mixer.Config.role for kind, registered in mixers_by_kind().items()}.items() >= {
        "attention": "attention",
        "mla": "attention",
        "mamba1": "ssm",
        "mamba2": "ssm",
        "gated_delta_net": "ssm",
        "linear_attention": "ssm",
        "mlp": "mlp",
        "moe": "moe",
    }.items()


def test_what_a_model_does_not_have_is_refused_with_what_it_has():
    spec = load_model(falcon_h1())
    with pytest.raises(
        LayoutError, match=r"'moe' is nothing that this model has; choose among attention, mlp, norm, ssm"
    ):
        check_recompute(("ssm", "moe"), spec)
    with pytest.raises(LayoutError, match=r"layout.recompute='ssm' must be full, or a list of roles"):
        Layout(recompute="ssm")
