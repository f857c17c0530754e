"""What a mixer must show: no layout changes it, decoding equals training, and its costs are what it says."""

import pytest
import torch
from eyas_gated_conv import GatedConv, convolve

from eyas.core.mixer import Placement
from eyas.layers.initial import initialise
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout

HIDDEN, CHANNELS, TAPS = 12, 6, 3
MODEL = {
    "hidden_size": HIDDEN,
    "vocab_size": 50,
    "pattern": ["conv", "ffn"],
    "repeat": 2,
    "layers": {"conv": {"kind": "gated_conv"}, "ffn": {"kind": "mlp", "intermediate_size": 24}},
}


@pytest.fixture
def mixer():
    config = GatedConv.Config(channels=CHANNELS, kernel_size=TAPS)
    mixer = GatedConv(config, HIDDEN, Placement(dtype=torch.float64))
    initialise(mixer, seed=1, init_std=0.3, tensor_rank=0, tensor=1)
    return mixer


@pytest.mark.parametrize("layout", [Layout(tensor=2, sequence=True), Layout(pipeline=2)], ids=str)
def test_layout_does_not_change_the_training(layout):
    assert_layout_changes_nothing(MODEL, layout)


def test_step_by_step_equals_the_whole_sequence(mixer):
    x_SBD = torch.randn(7, 2, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state, steps = mixer.initial_state(2), []
    for x_BD in x_SBD:
        y_BD, state = mixer.step(x_BD, state, Context())
        steps.append(y_BD)
    torch.testing.assert_close(torch.stack(steps), mixer(x_SBD, Context()), rtol=1e-12, atol=1e-12)


def test_convolution_equals_the_sum_over_the_taps(mixer):
    value_SBC = torch.randn(TAPS + 4, 2, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = sum(value_SBC[k : k + 5] * mixer.taps[:, k] for k in range(TAPS))
    torch.testing.assert_close(convolve(value_SBC, mixer.taps), expected, rtol=1e-12, atol=1e-12)


def test_costs_are_the_closed_forms(mixer):
    config = mixer.config
    assert config.parameters(HIDDEN) == sum(p.numel() for p in mixer.parameters()) == CHANNELS * (3 * HIDDEN + TAPS)
    assert config.flops(HIDDEN, 100) == 2 * CHANNELS * (3 * HIDDEN + TAPS)
    assert config.state_bytes(HIDDEN, 100, element=8) == mixer.initial_state(1).numel() * 8


def test_every_kept_activation_is_counted(mixer):
    kept = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in mixer.parameters()}
    x_SBD = torch.randn(50, 2, HIDDEN, dtype=torch.float64)
    weights.add(x_SBD.untyped_storage().data_ptr())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = mixer(x_SBD, Context())
    assert y.requires_grad
    assert sum(kept.values()) == mixer.config.activation_bytes(HIDDEN, 50, 2, element=8)
