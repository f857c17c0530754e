"""One of our mixers against the same layer of Hugging Face's transformers, which nobody here wrote, in float64."""

from contextlib import contextmanager
from unittest.mock import patch

import mixers
import torch

from eyas.core.mixer import Placement
from eyas.core.model import load_layer
from eyas.core.registry import mixer

RELATIVE = 1e-9
"""Of the largest entry of a tensor."""


@contextmanager
def float64():
    """What transformers casts to float32 whatever its input, it casts to float64 here."""
    names = patch.multiple(torch, float32=torch.float64, float=torch.float64)
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with names, patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(usual)


def shaken(theirs, seed, scale=0.3):
    """Their module in float64 with random weights, none at zero or one."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            around = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(around + scale * torch.randn(parameter.shape, generator=draw))
    return theirs.double().train()


def assert_same_as(theirs, run, options, weights, *, hidden_size, length, seed):
    """`run` of x (B, S, D) with their module equals our mixer with `options`, and so do the gradients of the input and
    of all their parameters; `weights` are ours, computed from theirs."""
    config = load_layer(options, "layer")
    ours = mixer(config.kind).mixer(config, hidden_size, Placement(dtype=torch.float64))
    assert weights.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert weights[name].shape == parameter.shape, name
    x = mixers.noise(2, length, hidden_size, seed=seed).requires_grad_()
    with float64():
        expected = run(x)
    actual = torch.func.functional_call(ours, weights, (x.transpose(0, 1), mixers.alone()))
    bias = weights.get("output_bias", torch.zeros((), dtype=torch.float64))
    assert_close("output", (actual + bias).transpose(0, 1), expected)
    loss = mixers.noise(*expected.shape, seed=seed + 1)
    names, leaves = zip(*theirs.named_parameters(), strict=True)
    results = [((actual + bias).transpose(0, 1) * loss).sum(), (expected * loss).sum()]
    got, wanted = (torch.autograd.grad(result, [*leaves, x], retain_graph=True) for result in results)
    for name, mine, gradient in zip((*names, "input"), got, wanted, strict=True):
        assert_close(name, mine, gradient)


def assert_close(name, actual, expected):
    difference, largest = (actual - expected).abs().max(), expected.abs().max()
    assert difference <= RELATIVE * largest, f"{name} differs by {difference:.2e}, its largest entry is {largest:.2e}"


def positions(rotary_class, config, length):
    """cos and sin of their rotary module for positions 0 .. length-1."""
    with float64():
        return rotary_class(config)(torch.zeros(1, dtype=torch.float64), torch.arange(length)[None])


def causal(length, window=None):
    """The additive mask that their eager attention takes, (1, 1, S, S)."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    return torch.zeros(length, length, dtype=torch.float64).masked_fill(~seen, -torch.inf)[None, None]
