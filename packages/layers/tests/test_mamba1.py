"""Mamba: transformers' Mamba and Jamba layers, decoding, packed documents."""
# S sequence, B batch, D hidden

import mixers
import parity
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer

seeds = st.integers(0, 999)
sizes = {
    "rank": st.sampled_from([1, 3]), "state": st.sampled_from([1, 4]), "taps": st.sampled_from([2, 4]),
    "biases": st.booleans(), "length": st.integers(2, 12), "seed": seeds,
}  # fmt: skip


@given(**sizes)
def test_mamba1_equals_transformers_mamba(rank, state, taps, biases, length, seed):
    pytest.importorskip("transformers")
    from transformers.models.mamba import modeling_mamba as hf

    config = hf.MambaConfig(
        hidden_size=8, expand=2, state_size=state, conv_kernel=taps, time_step_rank=rank, use_bias=biases,
        use_conv_bias=biases, num_hidden_layers=1,
    )  # fmt: skip
    theirs = parity.shaken(hf.MambaMixer(config, 0), seed)
    options = ours(rank, state, taps, biases)
    parity.assert_same_as(theirs, theirs, options, weights(theirs), hidden_size=8, length=length, seed=seed)


@given(**sizes)
def test_mamba1_with_inner_norms_equals_transformers_jamba(rank, state, taps, biases, length, seed):
    pytest.importorskip("transformers")
    from transformers.models.jamba import modeling_jamba as hf

    config = hf.JambaConfig(
        hidden_size=8, mamba_expand=2, mamba_d_state=state, mamba_d_conv=taps, mamba_dt_rank=rank,
        mamba_proj_bias=biases, mamba_conv_bias=biases, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    theirs = parity.shaken(hf.JambaMambaMixer(config, 0), seed)
    norms = {"dt_norm": theirs.dt_layernorm, "B_norm": theirs.b_layernorm, "C_norm": theirs.c_layernorm}
    named = weights(theirs) | {name: norm.weight for name, norm in norms.items()}
    options = ours(rank, state, taps, biases) | {"inner_norms": True}
    parity.assert_same_as(theirs, theirs, options, named, hidden_size=8, length=length, seed=seed)


def ours(rank, state, taps, biases):
    """The same layer in our words."""
    return {
        "kind": "mamba1", "inner_size": 16, "dt_rank": rank, "state_size": state, "conv_kernel": taps,
        "conv_bias": biases, "projection_bias": biases, "output_bias": biases,
    }  # fmt: skip


def weights(theirs):
    """Our names of their weights."""
    widths = [theirs.time_step_rank, theirs.ssm_state_size, theirs.ssm_state_size]
    found = {
        **dict(zip("xz", theirs.in_proj.weight.chunk(2), strict=True)),
        **dict(zip(("dt", "B", "C"), theirs.x_proj.weight.split(widths), strict=True)),
        "conv": theirs.conv1d.weight[:, 0], "dt_up": theirs.dt_proj.weight, "dt_bias": theirs.dt_proj.bias,
        "A_log": theirs.A_log, "D": theirs.D, "out": theirs.out_proj.weight,
    }  # fmt: skip
    if theirs.in_proj.bias is not None:
        found |= dict(zip(("x_bias", "z_bias"), theirs.in_proj.bias.chunk(2), strict=True))
        found |= {"conv_bias": theirs.conv1d.bias, "output_bias": theirs.out_proj.bias}
    return found


def test_initial_decays_count_upwards_in_every_channel():
    layer = mixers.build({"kind": "mamba1", "inner_size": 3, "dt_rank": 1, "state_size": 4})
    layer.declared["A_log"].init(layer.A_log.data, torch.Generator())
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 5.0, dtype=torch.float64).expand(3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_rank": 0}, "l.dt_rank=0 must be at least 1"),
        ({"time_step_min": 0.2}, "l.time_step_min=0.2 must be above 0 and at most time_step_max=0.1"),
        ({"time_step_floor": 0.2}, "l.time_step_floor=0.2 must be at least 0 and at most time_step_max=0.1"),
        ({"chunk_size": 0}, "l.chunk_size=0 must be at least 1, or null"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "mamba1", "inner_size": 8, "dt_rank": 2, **options}, "l")
