"""Attention against its definition, written out."""
# S sequence, B batch, D hidden, H heads, P head dim

import math

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer
from eyas.layers.attend import visible
from eyas.layers.rotary import rotate, rotation

seeds = st.integers(0, 999)
LLAMA3 = {"rule": "llama3", "factor": 2.0, "original_length": 8}


def literal(layer, x_SBD, documents_SB=None):
    """Softmax attention one query at a time, from the layer's options and weights alone."""
    c, (length, batch, _) = layer.config, x_SBD.shape
    scale_in = 1.0 if c.input_multiplier is None else c.input_multiplier

    def heads(name):
        y = (scale_in * x_SBD) @ getattr(layer, name).t()
        if c.qkv_bias:
            y = y + getattr(layer, f"{name}_bias")
        return y.reshape(length, batch, -1, c.head_dim)

    q, k, v = heads("q"), heads("k"), heads("v")
    if c.qk_norm:
        q = q / torch.sqrt(q.square().mean(-1, keepdim=True) + c.norm_epsilon) * layer.q_norm
        k = k / torch.sqrt(k.square().mean(-1, keepdim=True) + c.norm_epsilon) * layer.k_norm
    if c.key_multiplier is not None:
        k = c.key_multiplier * k
    if c.rope_base is not None:
        q, k = (torch.cat([turned(t[..., : c.rotated], c), t[..., c.rotated :]], -1) for t in (q, k))
    shared = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)
    rows = []
    for t in range(length):
        score_LBH = (q[t] * k[: t + 1]).sum(-1) * (c.softmax_scale or 1 / math.sqrt(c.head_dim))
        for other in range(t + 1):
            for row in range(batch):
                start = 0 if documents_SB is None else documents_SB[:, row].tolist().index(documents_SB[t, row])
                behind = c.window is not None and other <= t - c.window
                sink = start <= other < start + (c.sink_tokens or 0)
                if other < start or (behind and not sink):
                    score_LBH[other, row] = -math.inf
        if c.sinks:
            score_LBH = torch.cat([score_LBH, layer.sinks.expand(1, batch, -1)])
        share_LBH = score_LBH.softmax(0)[: t + 1]
        rows.append((share_LBH[..., None] * v[: t + 1]).sum(0))
    y = torch.stack(rows).reshape(length, batch, -1) @ layer.o.t()
    return y if c.output_multiplier is None else c.output_multiplier * y


def turned(x_SBHP, options):
    """Channels i and i + P/2 as a complex number, turned by position * base^(-2i/P), a frequency that may be scaled."""
    half, scaling, base = x_SBHP.shape[-1] // 2, options.rope_scaling, options.rope_base
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x_SBHP.shape[0])[:, None] * (scaling.stretched(frequency, base) if scaling else frequency)
    turn = torch.polar(torch.full_like(angle, scaling.magnitude if scaling else 1.0), angle)[:, None, None]
    z = torch.complex(x_SBHP[..., :half].contiguous(), x_SBHP[..., half:].contiguous()) * turn
    return torch.cat([z.real, z.imag], -1)


@given(options=mixers.attention(), length=st.integers(1, 17), packed=st.booleans(), seed=seeds)
def test_attention_equals_its_definition_with_gradients(options, length, packed, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(length, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    documents = mixers.documents(length, 2, seed) if packed else None
    mixers.assert_equal_results(layer(x, mixers.alone(documents)), literal(layer, x, documents), layer, x)


@given(
    options=mixers.attention(),
    changed=st.integers(1, 39),
    packed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
)
def test_a_token_changes_nothing_before_it_bit_for_bit(options, changed, packed, dtype, seed):
    layer = mixers.build(options, seed=seed, dtype=dtype)
    x = mixers.noise(40, 2, mixers.HIDDEN, seed=seed, dtype=dtype)
    other = x.clone()
    other[changed:] = mixers.noise(40 - changed, 2, mixers.HIDDEN, seed=seed + 1, dtype=dtype)
    context = mixers.alone(mixers.documents(40, 2, seed) if packed else None)
    assert torch.equal(layer(x, context)[:changed], layer(other, context)[:changed])


@given(first=st.integers(0, 1000), base=st.sampled_from([10.0, 1e4, 1e11]), seed=seeds)
def test_rotated_products_depend_on_the_distance_alone(first, base, seed):
    q, k = mixers.noise(2, 9, 1, 2, 8, seed=seed)
    products = [torch.einsum("sbhp,tbhp->stbh", rotate(q, base, start), rotate(k, base, start)) for start in (0, first)]
    torch.testing.assert_close(products[1], products[0], rtol=1e-10, atol=1e-10)


def test_the_first_token_is_not_rotated():
    q = mixers.noise(3, 1, 2, 8)
    assert torch.equal(rotate(q, 1e4)[0], q[0])


def test_a_rotation_used_while_generating_serves_training():
    rotation.cache_clear()
    q = mixers.noise(3, 1, 2, 8)
    with torch.inference_mode():
        rotate(q, 1e4)
    rotate(q.requires_grad_(), 1e4).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 6, "num_kv_heads": 4, "head_dim": 4}, "l.num_kv_heads=4 must divide num_heads=6"),
        ({"num_heads": 6, "num_kv_heads": 0, "head_dim": 4}, "l.num_kv_heads=0 must divide num_heads=6"),
        ({"num_heads": 2, "head_dim": 3}, "l.head_dim=3 must be even for rotary positions"),
        ({"num_heads": 2, "head_dim": 8, "rotary_dim": 3}, "l.rotary_dim=3 must be even for rotary positions"),
        ({"num_heads": 2, "head_dim": 8, "rotary_dim": 10}, "l.rotary_dim=10 must be from 2 to head_dim=8"),
        ({"num_heads": 2, "head_dim": 8, "rotary_dim": 4, "rope_base": None}, "l.rotary_dim=4 must be .* with a rope_"),
        (
            {"num_heads": 2, "head_dim": 8, "rope_base": None, "rope_scaling": LLAMA3},
            "l.rope_scaling needs rotary positions",
        ),
        (
            {"num_heads": 2, "head_dim": 8, "rope_scaling": LLAMA3 | {"factor": 0.5}},
            "l.rope_scaling.factor=0.5 and original_length=8 must be at least 1",
        ),
        (
            {"num_heads": 2, "head_dim": 8, "rope_scaling": LLAMA3 | {"slow_turns": 4}},
            "l.rope_scaling.slow_turns=4.0 must be above 0 and below fast_turns=4.0",
        ),
        (
            {"num_heads": 2, "head_dim": 8, "rope_scaling": LLAMA3 | {"mscale": 1.0}},
            "l.rope_scaling.mscale=1.0 is an option of rule=yarn, not of llama3",
        ),
        (
            {"num_heads": 2, "head_dim": 8, "rope_scaling": LLAMA3 | {"rule": "linear"}},
            "l.rope_scaling.rule: expected one of 'llama3', 'yarn'",
        ),
        ({"num_heads": 2, "head_dim": 4, "window": 0}, "l.window=0 must be at least 1"),
        ({"num_heads": 0, "head_dim": 4}, "l.num_heads=0 must be at least 1"),
        ({"num_heads": 2, "head_dim": 4, "sink_tokens": -1}, "l.sink_tokens=-1 must not be negative"),
        ({"num_heads": 2, "head_dim": 4, "input_size": 0}, "l.input_size=0 must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "attention", **options}, "l")


def test_heads_are_multi_head_unless_told_otherwise():
    assert load_layer({"kind": "attention", "num_heads": 6, "head_dim": 4}, "l").kv_heads == 6


@given(options=mixers.attention(), seed=seeds)
def test_a_wider_input_is_read_by_the_projections_alone(options, seed):
    layer = mixers.build(options | {"input_size": 2 * mixers.HIDDEN}, seed=seed)
    x = mixers.noise(5, 2, 2 * mixers.HIDDEN, seed=seed).requires_grad_()
    assert layer(x, mixers.alone()).shape == (5, 2, mixers.HIDDEN)
    mixers.assert_equal_results(layer(x, mixers.alone()), literal(layer, x), layer, x)


@given(window=st.integers(1, 400), sinks=st.integers(0, 400))
def test_counted_flops_are_those_of_the_keys_that_are_seen(window, sinks):
    """The closed form integrates over the sequence where the mask counts whole tokens: half a key a token."""
    length = 300
    options = {"kind": "attention", "num_heads": 1, "head_dim": 2, "window": window, "sink_tokens": sinks}
    config = load_layer(options, "l")
    mask = visible(length, window, sinks, None, torch.device("cpu"))
    seen = (length + 1) / 2 if mask is None else mask.sum().item() / length
    counted = (config.flops(1, length) - 2 * 1 * 2 * 4) / 8
    assert abs(counted - seen) <= 1
