"""Multi-head latent attention: transformers' DeepSeek-V3 layer, and the laws that hold for any attention."""
# S sequence, B batch, D hidden

import mixers
import parity
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer
from eyas.core.weights import replicated

seeds = st.integers(0, 999)


@given(
    heads=st.sampled_from([1, 3]),
    q_rank=st.sampled_from([None, 10]),
    head_dims=st.sampled_from([(8, 4, 8), (4, 6, 14), (6, 4, 10)]),
    interleave=st.booleans(),
    biases=st.booleans(),
    length=st.integers(2, 12),
    seed=seeds,
)
def test_mla_equals_transformers_deepseek_v3(heads, q_rank, head_dims, interleave, biases, length, seed):
    pytest.importorskip("transformers")
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as hf

    nope, rope, v = head_dims
    config = hf.DeepseekV3Config(
        hidden_size=20, num_attention_heads=heads, num_key_value_heads=heads, q_lora_rank=q_rank, kv_lora_rank=12,
        qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=v, rope_interleave=interleave, attention_bias=biases,
        rope_parameters={"rope_type": "default", "rope_theta": 1e3}, attn_implementation="eager",
    )  # fmt: skip
    theirs = parity.shaken(hf.DeepseekV3Attention(config, 0), seed)
    rotary = hf.DeepseekV3RotaryEmbedding(config)
    options = {
        "kind": "mla", "num_heads": heads, "q_lora_rank": q_rank, "kv_lora_rank": 12, "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope, "v_head_dim": v, "rope_base": 1e3, "rope_interleave": interleave,
        "down_bias": biases, "output_bias": biases,
    }  # fmt: skip

    def run(x_BSD):
        return theirs(x_BSD, parity.positions(rotary, length), parity.causal(length))[0]

    parity.assert_same_as(theirs, run, options, weights(theirs), hidden_size=20, length=length, seed=seed)


def weights(theirs):
    """Our names of their weights."""
    kv_down, k_rope = theirs.kv_a_proj_with_mqa.weight.split([theirs.kv_lora_rank, theirs.qk_rope_head_dim])
    up = theirs.kv_b_proj.weight.unflatten(0, (theirs.num_heads, -1))
    found = {
        "kv_down": kv_down, "k_rope": k_rope, "kv_norm": theirs.kv_a_layernorm.weight, "o": theirs.o_proj.weight,
        "k_up": up[:, : theirs.qk_nope_head_dim].flatten(0, 1), "v_up": up[:, theirs.qk_nope_head_dim :].flatten(0, 1),
    }  # fmt: skip
    if theirs.q_lora_rank is None:
        found["q"] = theirs.q_proj.weight
    else:
        found |= {"q_down": theirs.q_a_proj.weight, "q_norm": theirs.q_a_layernorm.weight, "q": theirs.q_b_proj.weight}
    if theirs.o_proj.bias is not None:
        biases = theirs.kv_a_proj_with_mqa.bias.split([theirs.kv_lora_rank, theirs.qk_rope_head_dim])
        found |= {"kv_down_bias": biases[0], "k_rope_bias": biases[1], "output_bias": theirs.o_proj.bias}
        if theirs.q_lora_rank is not None:
            found["q_down_bias"] = theirs.q_a_proj.bias
    return found


@given(options=mixers.mla(), length=st.integers(1, 17), seed=seeds)
def test_decoding_among_latents_equals_the_forward_pass(options, length, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(length, 2, mixers.HIDDEN, seed=seed)
    torch.testing.assert_close(mixers.decode(layer, x)[0], layer(x, mixers.alone()), rtol=1e-11, atol=1e-11)


@given(options=mixers.mla(), seed=seeds)
def test_packed_documents_equal_separate_ones_with_gradients(options, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(20, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    documents = mixers.documents(20, 2, seed)
    packed = layer(x, mixers.alone(documents))
    mixers.assert_equal_results(packed, mixers.one_by_one(layer, x, documents), layer, x)


@given(options=mixers.mla(), seed=seeds)
def test_documents_do_not_meet(options, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(20, 2, mixers.HIDDEN, seed=seed)
    mixers.assert_documents_do_not_meet(layer, x, mixers.documents(20, 2, seed))


def test_deepseek_v3s_cache_is_576_numbers_a_token():
    """DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2: 128 heads, latent of 512, rotated key of 64."""
    options = {"kind": "mla", "num_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512}
    config = load_layer(options, "l")
    assert config.state_bytes(7168, sequence_length=10, element=2) == 10 * 576 * 2
    published = 7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168
    assert config.parameters(7168) == published


def test_what_all_heads_read_is_on_every_rank():
    declared = load_layer({"kind": "mla", "num_heads": 4, "kv_lora_rank": 8}, "l").weights(12)
    assert declared["kv_down"] == replicated(8, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_rope_head_dim": 3}, "l.qk_rope_head_dim=3 must be even and at least 2"),
        ({"q_lora_rank": 0}, "l.q_lora_rank=0 must be at least 1, or null"),
        ({"v_head_dim": 0}, "l.v_head_dim=0 must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "mla", "num_heads": 2, "kv_lora_rank": 4, **options}, "l")
