"""Norms against their definitions."""
# S sequence, B batch, H heads, P head dim

import mixers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.mixer import Placement
from eyas.layers.norm import RMSNorm, gated_group_norm, rms_norm

widths = st.integers(1, 9)
seeds = st.integers(0, 999)


@given(width=widths, epsilon=st.sampled_from([1e-5, 0.1]), seed=seeds)
def test_rms_norm_equals_pytorchs_with_gradients(width, epsilon, seed):
    norm = RMSNorm(width, epsilon, Placement(dtype=torch.float64))
    with torch.no_grad():
        norm.weight.copy_(mixers.noise(width, seed=seed + 1))
    x = mixers.noise(4, 2, width, seed=seed).requires_grad_()
    mixers.assert_equal_results(norm(x), F.rms_norm(x, (width,), norm.weight, epsilon), norm, x, tolerance=1e-12)


@given(width=widths, seed=seeds)
def test_rms_norm_of_a_narrow_type_has_wide_statistics_and_is_rounded_before_the_weight(width, seed):
    x = mixers.noise(4, 2, width, seed=seed, dtype=torch.bfloat16)
    weight = mixers.noise(width, seed=seed + 1, dtype=torch.bfloat16)
    wide = x.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).bfloat16() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, rtol=2**-7, atol=0)
    assert rms_norm(1000 * x, weight, 1e-5).isfinite().all()


@st.composite
def gated(draw):
    """y, z (S, B, H, P), the weight, and the number of groups."""
    groups, heads, width = (draw(st.integers(1, 3)) for _ in range(3))
    y, z = mixers.noise(2, 4, 2, groups * heads, width, seed=draw(seeds))
    return y, z, mixers.noise(groups * heads * width, seed=7), groups


def literal(y, z, weight, groups, epsilon, before_gate):
    y, gate = y.flatten(2), F.silu(z.flatten(2))
    if not before_gate:
        y = y * gate
    parts = [p * torch.rsqrt(p.square().mean(-1, keepdim=True) + epsilon) for p in y.chunk(groups, -1)]
    y = torch.cat(parts, -1) * weight
    return y * gate if before_gate else y


@given(case=gated(), before_gate=st.booleans())
def test_the_gated_norm_equals_its_definition(case, before_gate):
    y, z, weight, groups = case
    actual = gated_group_norm(
        y, z, weight, groups=groups, group_width=len(weight) // groups, epsilon=1e-5, before_gate=before_gate,
        total=lambda partial: partial,
    )  # fmt: skip
    expected = literal(y, z, weight, groups, 1e-5, before_gate)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@given(heads=st.integers(1, 3), width=st.integers(1, 3), before_gate=st.booleans(), seed=seeds)
def test_a_group_that_two_ranks_share_is_normed_as_a_whole(heads, width, before_gate, seed):
    y, z = mixers.noise(2, 4, 2, 2 * heads, width, seed=seed)
    weight = mixers.noise(2 * heads * width, seed=seed + 1)
    gate = F.silu(z)
    squares = (y if before_gate else y * gate).square().sum((-1, -2)).reshape(4, 2, 1, 1)
    halves = [
        gated_group_norm(
            y_half, z_half, weight_half, groups=1, group_width=len(weight), epsilon=1e-5, before_gate=before_gate,
            total=lambda partial: squares,
        )
        for y_half, z_half, weight_half in zip(y.chunk(2, 2), z.chunk(2, 2), weight.chunk(2), strict=True)
    ]  # fmt: skip
    expected = literal(y, z, weight, 1, 1e-5, before_gate)
    torch.testing.assert_close(torch.cat(halves, -1), expected, rtol=1e-12, atol=1e-12)
