"""Attention with the options of published families equals transformers' layers: gpt-oss, Bamba, Granite."""

import parity
import pytest
from hypothesis import given
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers")
seeds = st.integers(0, 999)
HIDDEN = 16


def weights(theirs):
    """Our names of their weights."""
    found = {name: getattr(theirs, f"{name}_proj").weight for name in "qkvo"}
    if theirs.q_proj.bias is not None:
        found |= {f"{name}_bias": getattr(theirs, f"{name}_proj").bias for name in "qkv"}
        found["output_bias"] = theirs.o_proj.bias
    return found


def sizes(kv_heads, shared, base, **options):
    """Options of a transformers configuration."""
    return {
        "hidden_size": HIDDEN, "num_attention_heads": kv_heads * shared, "num_key_value_heads": kv_heads,
        "attn_implementation": "eager", "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "num_hidden_layers": 2, **options,
    }  # fmt: skip


def ours(config, head_dim, **options):
    """The same layer in our words."""
    return {
        "kind": "attention", "num_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads,
        "head_dim": head_dim, "rope_base": config.rope_parameters["rope_theta"], "qkv_bias": config.attention_bias,
        "output_bias": config.attention_bias, **options,
    }  # fmt: skip


def assert_same(theirs, rotary, options, weights, length, seed):
    def run(x_BSD):
        embeddings, mask = parity.positions(rotary, length), parity.causal(length, options.get("window"))
        return theirs(x_BSD, position_embeddings=embeddings, attention_mask=mask)[0]

    parity.assert_same_as(theirs, run, options, weights, hidden_size=HIDDEN, length=length, seed=seed)


@given(
    kv_heads=st.sampled_from([1, 2]),
    shared=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 3]),
    length=st.integers(2, 12),
    seed=seeds,
)
def test_sinks_and_biases_are_those_of_gpt_oss(kv_heads, shared, window, length, seed):
    from transformers.models.gpt_oss import modeling_gpt_oss as hf

    config = hf.GptOssConfig(**sizes(kv_heads, shared, 1e4, head_dim=6, attention_bias=True))
    theirs = parity.shaken(hf.GptOssAttention(config, 1), seed)
    options = ours(config, 6, sinks=True, window=window)
    named = weights(theirs) | {"sinks": theirs.sinks}
    assert_same(theirs, hf.GptOssRotaryEmbedding(config), options, named, length, seed)


@given(kv_heads=st.sampled_from([1, 2]), length=st.integers(2, 12), seed=seeds)
def test_a_half_rotated_head_is_that_of_bamba(kv_heads, length, seed):
    from transformers.models.bamba import modeling_bamba as hf

    config = hf.BambaConfig(**sizes(kv_heads, 2, 1e4), attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=8)
    head_dim = HIDDEN // config.num_attention_heads
    theirs, rotary = parity.shaken(hf.BambaAttention(config, 1), seed), hf.BambaRotaryEmbedding(config)
    assert 2 * len(rotary.inv_freq) == head_dim // 2
    assert_same(theirs, rotary, ours(config, head_dim, rotary_dim=head_dim // 2), weights(theirs), length, seed)


@given(scale=st.sampled_from([0.1, 1.0]), length=st.integers(2, 12), seed=seeds)
def test_the_softmax_scale_is_granites(scale, length, seed):
    from transformers.models.granite import modeling_granite as hf

    config = hf.GraniteConfig(**sizes(2, 2, 1e4, attention_multiplier=scale))
    theirs = parity.shaken(hf.GraniteAttention(config, 0), seed)
    assert_same(theirs, hf.GraniteRotaryEmbedding(config), ours(config, 4, softmax_scale=scale), weights(theirs),
                length, seed)  # fmt: skip
