"""Linear attention: its recurrence, transformers' MiniMax layer, decoding, packed documents."""
# S sequence, B batch, D hidden, H heads, P head dim

import mixers
import parity
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer

seeds = st.integers(0, 999)


def literal(layer, x_SBD):
    """S_t = a S_{t-1} + v_t k_t^T, y_t = S_t q_t, one token at a time, from the layer's options and weights alone."""
    c = layer.config
    q, k, v, z = ((x_SBD @ getattr(layer, name).t()).unflatten(-1, (c.num_heads, -1)) for name in ("q", "k", "v", "z"))
    if c.activation == "silu":
        q, k, v = F.silu(q), F.silu(k), F.silu(v)
    decay_H11 = torch.tensor(c.log_decays, dtype=torch.float64).exp()[:, None, None]
    state, ys = 0.0, []
    for t in range(len(x_SBD)):
        state = decay_H11 * state + v[t][..., None] * k[t][..., None, :]
        ys.append((state @ q[t][..., None])[..., 0])
    y = torch.stack(ys)
    squares = y.square().mean(-1, keepdim=True) if c.norm_per_head else y.square().mean((-2, -1), keepdim=True)
    y = (y * torch.rsqrt(squares + c.norm_epsilon)).flatten(-2) * layer.norm
    return (y * getattr(F, c.gate)(z.flatten(-2))) @ layer.out.t()


@given(options=mixers.linear_attention(), length=st.integers(1, 17), seed=seeds)
def test_linear_attention_equals_its_recurrence_with_gradients(options, length, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(length, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    mixers.assert_equal_results(layer(x, mixers.alone()), literal(layer, x), layer, x)


@given(
    heads=st.sampled_from([1, 2, 6]),
    at=st.integers(0, 2),
    length=st.integers(2, 12),
    block=st.integers(2, 9),
    seed=seeds,
)
def test_linear_attention_equals_transformers_minimax(heads, at, length, block, seed):
    pytest.importorskip("transformers")
    from transformers.models.minimax import modeling_minimax as hf

    config = hf.MiniMaxConfig(
        hidden_size=24, num_attention_heads=heads, head_dim=4, num_hidden_layers=3, block_size=block,
        layer_types=["linear_attention"] * 3,
    )  # fmt: skip
    with parity.float64():
        theirs = parity.shaken(hf.MiniMaxLightningAttention(config, at), seed)
    options = {
        "kind": "linear_attention", "num_heads": heads, "head_dim": 4,
        "decay_scale": 1 - at / (config.num_hidden_layers - 1 + 1e-5) + 1e-5,
    }  # fmt: skip
    qkv = theirs.qkv_proj.weight.unflatten(0, (heads, 3, 4)).unbind(1)
    weights = {name: weight.flatten(0, 1) for name, weight in zip("qkv", qkv, strict=True)}
    weights |= {"z": theirs.output_gate.weight, "norm": theirs.norm.weight, "out": theirs.out_proj.weight}

    def run(x_BSD):
        return theirs(x_BSD, position_embeddings=None, attention_mask=None)[0]

    parity.assert_same_as(theirs, run, options, weights, hidden_size=24, length=length, seed=seed)


def test_decays_are_those_of_the_papers():
    """RetNet (arXiv:2307.08621), equation 8: 1 - 2^(-5 - i), i from 0; lightning attention's slopes are ALiBi's."""
    heads = {"kind": "linear_attention", "num_heads": 8, "head_dim": 4}
    retention = load_layer(heads | {"decay": "retention"}, "l").log_decays
    assert torch.tensor(retention).exp().tolist() == pytest.approx([1 - 2.0 ** (-5 - i) for i in range(8)])
    assert load_layer(heads, "l").log_decays == [-(2.0**-h) for h in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay_scale": 0.0}, "l.decay_scale=0.0 must be above 0"),
        ({"head_dim": 0}, "l.head_dim=0 must be at least 1"),
        ({"decay": "fast"}, "l.decay: expected one of 'lightning', 'retention'"),
        ({"chunk_size": 0}, "l.chunk_size=0 must be at least 1, or null"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "linear_attention", "num_heads": 4, "head_dim": 4, **options}, "l")
