"""Every small model of conf/ learns, and decodes token by token what it computes at once."""

from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from eyas.core.mixer import Placement
from eyas.experiments.catalogue import describe, models
from eyas.layers.model import HybridLM
from eyas.parallel.context import Context
from eyas.parallel.losses import Losses

TINY = {name: spec for name, spec in models().items() if name.endswith("_tiny")}


def built(spec, dtype):
    return HybridLM(spec, Context(Placement(dtype=dtype))).initialise(1)


def windowed(spec, window):
    """The model with narrower windows where it has any."""
    narrower = {
        name: replace(layer, window=window) for name, layer in spec.layers.items() if getattr(layer, "window", None)
    }
    return replace(spec, layers={**spec.layers, **narrower})


def tokens(spec, *shape):
    return torch.randint(1, spec.vocab_size, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", TINY)
def test_a_few_steps_on_one_batch_are_learnt(name):
    model, batch = built(TINY[name], torch.float32), tokens(TINY[name], 2, 33)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses = []
    for _ in range(4):
        result = model(batch[:, :-1], batch[:, 1:])
        loss_SB = result.minimised_SB if isinstance(result, Losses) else result
        losses.append(loss_SB.mean())
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_computes_nearly_what_float32_does(name):
    """The loss to 1 %; what goes from block to block is bfloat16, and every weight gets a gradient of its own dtype."""
    batch, losses, dtypes = tokens(TINY[name], 2, 33), {}, []
    for dtype in (torch.float32, torch.bfloat16):
        model = built(TINY[name], dtype)
        model.final_norm.register_forward_hook(lambda _, inputs, output: dtypes.append((inputs[0].dtype, output.dtype)))
        result = model(batch[:, :-1], batch[:, 1:])
        losses[dtype] = (result.minimised_SB if isinstance(result, Losses) else result).mean()
    losses[torch.bfloat16].backward()
    assert dtypes == [(torch.float32,) * 2, (torch.bfloat16,) * 2]
    assert losses[torch.bfloat16].dtype == torch.float32
    assert abs(losses[torch.bfloat16] - losses[torch.float32]) < 1e-2 * losses[torch.float32]
    assert all(weight.grad.dtype == weight.dtype for weight in model.parameters())


@pytest.mark.parametrize("name", TINY)
def test_decoding_token_by_token_equals_the_forward_pass(name):
    """In float64, with the family's own multipliers; windows are left behind."""
    model, text = built(windowed(TINY[name], 5), torch.float64), tokens(TINY[name], 2, 12)
    with torch.no_grad():
        expected, states = model(text), model.initial_state(2)
        for position, token in enumerate(text.t()):
            logits, states = model.step(token, states)
            largest = expected[position].abs().max()
            assert (logits - expected[position]).abs().max() <= 1e-9 * largest


@pytest.mark.parametrize("name", TINY)
def test_keys_and_values_are_told_from_the_state_that_does_not_grow(name):
    """As `eyas models` tells them, meta tokens among the keys: against what a model in bfloat16 holds."""
    spec = TINY[name]
    told = describe(name, spec, 70)
    constant = held(built(replace(spec, meta_tokens=0), torch.bfloat16).initial_state(1))
    model = built(spec, torch.bfloat16)
    _, states = model.prefill(tokens(spec, 1, 70), model.initial_state(1))
    assert (told["state_bytes"], told["kv_bytes"]) == (constant, held(states) - constant)


def held(states):
    return sum(leaf.nbytes for leaf in tree_leaves(states) if isinstance(leaf, torch.Tensor))
