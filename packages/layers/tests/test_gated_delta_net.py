"""Gated DeltaNet: transformers' Qwen3-Next layer, decoding, packed documents."""
# S sequence, B batch, D hidden

import parity
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer
from eyas.layers.testing import laws
from eyas.layers.testing.case import Case

seeds = st.integers(0, 999)


@given(
    key_heads=st.sampled_from([1, 2]),
    shared=st.sampled_from([1, 3]),
    length=st.sampled_from([2, 9, 70]),
    conv_kernel=st.sampled_from([2, 4]),
    seed=seeds,
)
def test_gated_delta_net_equals_transformers_qwen3_next(key_heads, shared, length, conv_kernel, seed):
    pytest.importorskip("transformers")
    from transformers.models.qwen3_next import modeling_qwen3_next as hf

    config = hf.Qwen3NextConfig(
        hidden_size=20, linear_num_key_heads=key_heads, linear_num_value_heads=key_heads * shared,
        linear_key_head_dim=6, linear_value_head_dim=5, linear_conv_kernel_dim=conv_kernel, num_hidden_layers=1,
        layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = parity.shaken(hf.Qwen3NextGatedDeltaNet(config, 0), seed)
    options = {
        "kind": "gated_delta_net", "num_heads": key_heads * shared, "num_key_heads": key_heads, "key_head_dim": 6,
        "value_head_dim": 5, "conv_kernel": conv_kernel,
    }  # fmt: skip
    parity.assert_same_as(theirs, theirs, options, weights(theirs), hidden_size=20, length=length, seed=seed)


def weights(theirs):
    """Our names of their weights, which they keep in one matrix, key head by key head."""
    K, P, shared = theirs.head_k_dim, theirs.head_v_dim, theirs.num_v_heads // theirs.num_k_heads
    qkvz = theirs.in_proj_qkvz.weight.unflatten(0, (theirs.num_k_heads, -1)).split([K, K, shared * P, shared * P], 1)
    ba = theirs.in_proj_ba.weight.unflatten(0, (theirs.num_k_heads, -1)).split([shared, shared], 1)
    taps = theirs.conv1d.weight[:, 0].split([theirs.key_dim, theirs.key_dim, theirs.value_dim])
    return {
        **{name: weight.flatten(0, 1) for name, weight in zip(("q", "k", "v", "z"), qkvz, strict=True)},
        **{name: weight.flatten(0, 1) for name, weight in zip(("beta", "dt"), ba, strict=True)},
        **{f"conv_{name}": weight for name, weight in zip("qkv", taps, strict=True)},
        "A_log": theirs.A_log, "dt_bias": theirs.dt_bias, "norm": theirs.norm.weight, "out": theirs.out_proj.weight,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_key_heads": 3}, "l.num_key_heads=3 must divide num_heads=4"),
        ({"key_head_dim": 0}, "l.key_head_dim=0 must be at least 1"),
        ({"chunk_size": 0}, "l.chunk_size=0 must be at least 1, or null"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(options, message):
    fitting = {"kind": "gated_delta_net", "num_heads": 4, "key_head_dim": 4, "value_head_dim": 4}
    with pytest.raises(ConfigError, match=message):
        load_layer(fitting | options, "l")


def test_derivatives_are_found_where_the_output_turns_within_a_thousandth():
    """Keys of one dimension keep nothing but their sign when they are normalised, and turn where it changes."""
    sizes = {"num_heads": 4, "num_key_heads": 1, "key_head_dim": 1, "value_head_dim": 3, "conv_kernel": 4}
    options = {"kind": "gated_delta_net", **sizes}
    laws.gradients_are_derivatives(Case(options=options, hidden_size=16, length=5, batch=2, seed=2))
