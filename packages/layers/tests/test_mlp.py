"""The feed-forward layer against its definition."""

import math

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer

ACTIVATIONS = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "squared_relu": lambda x: torch.where(x > 0, x * x, 0.0),
}


def literal(layer, x):
    c = layer.config

    def projected(name, scale):
        y = x @ getattr(layer, name).t()
        return (scale or 1.0) * (y + getattr(layer, f"{name}_bias") if c.bias else y)

    if c.gated:
        hidden = ACTIVATIONS[c.activation](projected("gate", c.gate_multiplier)) * projected("up", None)
    else:
        hidden = ACTIVATIONS[c.activation](projected("up", c.gate_multiplier))
    return (c.down_multiplier or 1.0) * hidden @ layer.down.t()


@given(options=mixers.mlp(), seed=st.integers(0, 999))
def test_the_layer_equals_its_definition_with_gradients(options, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(5, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    mixers.assert_equal_results(layer(x, mixers.alone()), literal(layer, x), layer, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intermediate_size": 0}, "l.intermediate_size=0 must be at least 1"),
        (
            {"intermediate_size": 4, "activation": "selu"},
            "l.activation: expected one of 'silu', 'gelu', 'squared_relu'",
        ),
        ({}, "l.intermediate_size: a value is required"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "mlp", **options}, "l")
