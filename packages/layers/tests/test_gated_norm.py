"""The gated norm against its definition."""
# S sequence, B batch, H heads, P head dim

import mixers
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.layers import gated_norm
from eyas.layers.gated_norm import gated_group_norm

seeds = st.integers(0, 999)


@st.composite
def gated(draw):
    """y, z (S, B, H, P), the weight, and the number of groups."""
    groups, heads, width = (draw(st.integers(1, 3)) for _ in range(3))
    y, z = mixers.noise(2, 4, 2, groups * heads, width, seed=draw(seeds))
    return y, z, mixers.noise(groups * heads * width, seed=7), groups


def literal(y, z, weight, groups, epsilon, before_gate, activation="silu"):
    y, gate = y.flatten(2), getattr(F, activation)(z.flatten(2))
    if not before_gate:
        y = y * gate
    parts = [p * torch.rsqrt(p.square().mean(-1, keepdim=True) + epsilon) for p in y.chunk(groups, -1)]
    y = torch.cat(parts, -1) * weight
    return y * gate if before_gate else y


@given(
    case=gated(),
    before_gate=st.booleans(),
    tokens=st.integers(1, 5),
    activation=st.sampled_from(["silu", "sigmoid"]),
)
def test_the_gated_norm_and_its_gradients_equal_their_definition(case, before_gate, tokens, activation):
    y, z, weight, groups = case
    leaves = [value.requires_grad_() for value in (y, z, weight)]
    expected = literal(*leaves, groups, 1e-5, before_gate, activation)
    direction = mixers.noise(*expected.shape, seed=3)
    wanted = [expected, *torch.autograd.grad(expected, leaves, direction)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gated_norm, "BLOCK_ELEMENTS", tokens * y[0].numel())
        actual = gated_group_norm(
            *leaves, groups=groups, group_width=len(weight) // groups, epsilon=1e-5, before_gate=before_gate,
            total=lambda partial: partial, activation=activation,
        )  # fmt: skip
        found = [actual, *torch.autograd.grad(actual, leaves, direction)]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@given(case=gated(), before_gate=st.booleans())
def test_of_a_narrow_type_statistics_and_products_are_wide(case, before_gate):
    y, z, weight, groups = case
    narrow = [value.bfloat16() for value in (y, z, weight)]
    actual = gated_group_norm(
        *narrow, groups=groups, group_width=len(weight) // groups, epsilon=1e-5, before_gate=before_gate,
        total=lambda partial: partial,
    )  # fmt: skip
    expected = literal(*(value.float() for value in narrow), groups, 1e-5, before_gate).bfloat16()
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=1e-6)


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
