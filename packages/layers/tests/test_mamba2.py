"""Mamba-2 against its recurrence, written out."""
# S sequence, B batch, D hidden, H heads, P head dim, N state

import mixers
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.model import load_layer

seeds = st.integers(0, 999)


def literal(layer, x_SBD):
    """The recurrence one token at a time, from the layer's options and weights alone."""
    c = layer.config
    scales = dict(zip(("z", "x", "B", "C", "dt"), c.multipliers or [1.0] * 5, strict=True))

    def projected(name):
        y = (c.input_multiplier or 1.0) * x_SBD @ getattr(layer, name).t()
        return scales[name] * (y + getattr(layer, f"{name}_proj_bias") if c.projection_bias else y)

    def convolved(name):
        taps, y = getattr(layer, f"conv_{name}"), projected(name)
        bias = getattr(layer, f"conv_{name}_bias") if c.conv_bias else None
        padded = F.pad(y.permute(1, 2, 0), (c.conv_kernel - 1, 0))
        return F.silu(F.conv1d(padded, taps[:, None], bias, groups=taps.shape[0])).permute(2, 0, 1)

    heads = lambda y: y.unflatten(-1, (c.num_heads, -1))  # noqa: E731
    groups = lambda y: y.unflatten(-1, (c.num_groups, -1)).repeat_interleave(c.num_heads // c.num_groups, -2)  # noqa: E731
    x, z, B, C = heads(convolved("x")), heads(projected("z")), groups(convolved("B")), groups(convolved("C"))
    dt = F.softplus(projected("dt") + layer.dt_bias).clamp(*c.time_step_limit)
    state, ys = 0.0, []
    for t in range(len(x_SBD)):
        decay = torch.exp(-dt[t] * layer.A_log.exp())[..., None, None]
        state = decay * state + dt[t][..., None, None] * x[t][..., None] * B[t][..., None, :]
        ys.append((state * C[t][..., None, :]).sum(-1) + layer.D[:, None] * x[t])
    y = torch.stack(ys).flatten(-2)
    gate = F.silu(z.flatten(-2))
    if not c.gated_norm:
        y = y * gate
    elif c.norm_before_gate:
        y = normed(y, c) * layer.norm * gate
    else:
        y = normed(y * gate, c) * layer.norm
    return (c.output_multiplier or 1.0) * y @ layer.out.t()


def normed(y, c):
    grouped = y.unflatten(-1, (c.num_groups, -1))
    return (grouped / torch.sqrt(grouped.square().mean(-1, keepdim=True) + c.norm_epsilon)).flatten(-2)


@given(options=mixers.mamba2(), length=st.integers(1, 17), seed=seeds)
def test_mamba2_equals_its_recurrence_with_gradients(options, length, seed):
    layer = mixers.build(options, seed=seed)
    x = mixers.noise(length, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    mixers.assert_equal_results(layer(x, mixers.alone()), literal(layer, x), layer, x)


@given(
    options=mixers.mamba2(),
    choice=st.sampled_from([{"kernel": "sequential"}, {"chunk_size": 3}, {"chunk_size": 64}]),
    seed=seeds,
)
def test_kernel_and_chunk_size_change_nothing(options, choice, seed):
    layer, other = (mixers.build(options | extra, seed=seed) for extra in ({}, choice))
    x = mixers.noise(20, 2, mixers.HIDDEN, seed=seed)
    torch.testing.assert_close(layer(x, mixers.alone()), other(x, mixers.alone()), rtol=1e-10, atol=1e-10)


@given(options=mixers.mamba2(time_step_limit=[0.25, 0.5]), seed=seeds)
def test_time_steps_keep_their_limits(options, seed):
    layer = mixers.build(options, seed=seed)
    dt = layer.time_step(10 * mixers.noise(9, 2, options["num_heads"], seed=seed))
    assert dt.min() == 0.25
    assert dt.max() == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 3}, "l.num_groups=3 must divide num_heads=4"),
        ({"state_size": 0}, "l.state_size=0 must be at least 1"),
        ({"time_step_min": 0.2}, "l.time_step_min=0.2 must be above 0 and at most time_step_max=0.1"),
        ({"time_step_floor": 0.2}, "l.time_step_floor=0.2 must be at least 0 and at most time_step_max=0.1"),
        (
            {"time_step_limit": [0.1, 0.01]},
            r"l.time_step_limit=\[0.1, 0.01\] must be a lower bound .* and a higher",
        ),
        ({"chunk_size": 0}, "l.chunk_size=0 must be at least 1, or null"),
        ({"kernel": "chunkd"}, "l.kernel: expected one of 'auto', 'chunked'"),
        ({"multipliers": [1.0, 2.0]}, r"l.multipliers: expected a list of 5"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 4, **options}, "l")
