"""One of our mixers against the same layer of Hugging Face's transformers, which nobody here wrote."""

import mixers
import torch

from eyas.core.mixer import Placement
from eyas.core.model import load_layer
from eyas.core.registry import mixer

RELATIVE = 1e-5
"""Of the largest entry of a tensor, in float32: that is where transformers computes its recurrences."""


def shaken(theirs, seed, scale=0.3):
    """Their module in float32 with random weights, none at zero or one."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            around = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(around + scale * torch.randn(parameter.shape, generator=draw))
    return theirs.float().train()


def assert_same_as(theirs, run, options, weights, *, hidden_size, length, seed):
    """`run` of x (B, S, D) with their module equals our mixer with `options`, and so do the gradients of the input and
    of all their parameters; `weights` are ours, computed from theirs."""
    config = load_layer(options, "layer")
    ours = mixer(config.kind).mixer(config, hidden_size, Placement())
    assert weights.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert weights[name].shape == parameter.shape, name
    x = mixers.noise(2, length, hidden_size, seed=seed, dtype=torch.float32).requires_grad_()
    expected = run(x)
    actual = torch.func.functional_call(ours, weights, (x.transpose(0, 1), mixers.alone()))
    bias = weights.get("output_bias", torch.zeros(()))
    assert_close("output", (actual + bias).transpose(0, 1), expected)
    loss = mixers.noise(*expected.shape, seed=seed + 1, dtype=torch.float32)
    names, leaves = zip(*theirs.named_parameters(), strict=True)
    results = [((actual + bias).transpose(0, 1) * loss).sum(), (expected * loss).sum()]
    got, wanted = (torch.autograd.grad(result, [*leaves, x], retain_graph=True) for result in results)
    for name, mine, gradient in zip((*names, "input"), got, wanted, strict=True):
        assert_close(name, mine, gradient)


def assert_close(name, actual, expected):
    difference, largest = (actual - expected).abs().max(), expected.abs().max()
    assert difference <= RELATIVE * largest, f"{name} differs by {difference:.2e}, its largest entry is {largest:.2e}"


def positions(rotary, length):
    """cos and sin of their rotary module for positions 0 .. length-1."""
    return rotary(torch.zeros(1), torch.arange(length)[None])


def causal(length, window=None):
    """The additive mask that their eager attention takes, (1, 1, S, S)."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) & (distance < (window or length))
    return torch.zeros(length, length).masked_fill(~seen, -torch.inf)[None, None]
