"""Laws of the causal convolution."""
# S sequence, B batch, C channels, K taps

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from eyas.core.errors import ConfigError
from eyas.layers.conv import causal_conv, conv_step

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""For float64 sums of a few terms near one."""

sizes = st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 6), st.integers(1, 4))


def draw_inputs(seed: int, size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, weight, bias and history of one size (S, B, C, K)."""
    torch.manual_seed(seed)
    S, B, C, K = size
    shapes = ((S, B, C), (C, K), (C,), (K - 1, B, C))
    return [torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, history: Tensor) -> Tensor:
    """The same by torch's grouped convolution."""
    inputs_BCS = torch.cat([history, x]).permute(1, 2, 0)
    return F.conv1d(inputs_BCS, weight[:, None], bias, groups=weight.shape[0]).permute(2, 0, 1)


def ours(x: Tensor, weight: Tensor, bias: Tensor, history: Tensor, **options: object) -> Tensor:
    return causal_conv(x, weight, bias, history_KBC=history, **options)


@pytest.mark.parametrize("silu", [True, False])
@given(seed=st.integers(0, 999), size=sizes, block=st.integers(1, 200))
def test_shifted_adds_equal_conv1d(silu: bool, seed: int, size: tuple[int, ...], block: int) -> None:
    """In results and all gradients, whatever the blocks."""
    inputs = draw_inputs(seed, size)
    with patch("eyas.layers.conv.BLOCK_ELEMENTS", block):
        y = ours(*inputs, silu=silu)
        weight = torch.randn_like(y)
        gradients = torch.autograd.grad((y * weight).sum(), inputs)
    expected = F.silu(conv1d(*inputs)) if silu else conv1d(*inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip((y, *gradients), (expected, *theirs), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@given(seed=st.integers(0, 999), size=sizes, cut=st.integers(0, 40))
def test_history_joins_two_pieces(seed: int, size: tuple[int, ...], cut: int) -> None:
    x, weight, bias, history = draw_inputs(seed, size)
    cut, past = min(cut, size[0] - 1), size[3] - 1
    whole = ours(x, weight, bias, history)
    inputs = torch.cat([history, x])
    head = ours(x[:cut], weight, bias, history) if cut else whole[:0]
    tail = ours(x[cut:], weight, bias, inputs[cut : cut + past])
    torch.testing.assert_close(torch.cat([head, tail]), whole, **EXACT)


@given(seed=st.integers(0, 999), size=sizes, start=st.integers(1, 40), block=st.integers(1, 200))
def test_packed_documents_equal_separate_runs(seed: int, size: tuple[int, ...], start: int, block: int) -> None:
    """In results and gradients: the second document sees zeros before itself."""
    inputs = draw_inputs(seed, size)
    x, weight, bias, history = inputs
    documents = (torch.arange(size[0]) >= start).long()[:, None].expand(-1, size[1])
    with patch("eyas.layers.conv.BLOCK_ELEMENTS", block):
        y = ours(*inputs, documents_SB=documents)
        scale = torch.randn_like(y)
        gradients = torch.autograd.grad((y * scale).sum(), inputs)
    first = causal_conv(x[:start], weight, bias, history_KBC=history)
    second = causal_conv(x[start:], weight, bias) if start < size[0] else first[:0]
    separate = torch.cat([first, second])
    theirs = torch.autograd.grad((separate * scale).sum(), inputs)
    for one, other in zip((y, *gradients), (separate, *theirs), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_nothing_crosses_a_document_boundary_even_if_infinite() -> None:
    x, weight, bias, history = draw_inputs(0, (10, 1, 3, 4))
    documents = torch.tensor([0] * 5 + [1] * 5)[:, None]
    clean = ours(x, weight, bias, history, documents_SB=documents)
    spoilt = torch.cat([torch.full_like(x[:5], torch.inf), x[5:]]).detach().requires_grad_()
    y = ours(spoilt, weight, bias, history, documents_SB=documents)
    assert torch.equal(y[5:], clean[5:])
    (dx,) = torch.autograd.grad(clean[5:].sum(), x)
    assert not dx[:5].any()
    assert dx[5:].any()


@given(seed=st.integers(0, 999), size=sizes)
def test_steps_equal_the_convolution(seed: int, size: tuple[int, ...]) -> None:
    x, weight, bias, history = draw_inputs(seed, size)
    whole = ours(x, weight, bias, history)
    for t in range(size[0]):
        y, history = conv_step(x[t], history, weight, bias)
        torch.testing.assert_close(y, whole[t], **EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_low_precision_stays_near(dtype: torch.dtype, tolerance: float) -> None:
    """bfloat16 sums in float32, so that only inputs, results and gradients are rounded to eight bits."""
    exact, inputs = draw_inputs(0, (100, 2, 8, 4)), draw_inputs(0, (100, 2, 8, 4), dtype)
    y, expected = ours(*inputs), F.silu(conv1d(*exact))
    assert y.dtype == dtype
    gradients = torch.autograd.grad(y.sum(), inputs)
    theirs = torch.autograd.grad(expected.sum(), exact)
    for one, other in zip((y, *gradients), (expected, *theirs), strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()


def test_no_bias_and_no_history_are_zeros() -> None:
    x, weight, bias, history = draw_inputs(0, (7, 2, 3, 4))
    zeros = ours(x, weight, torch.zeros_like(bias), torch.zeros_like(history))
    assert torch.equal(causal_conv(x, weight), zeros)


def test_a_history_of_the_wrong_length_is_refused() -> None:
    x, weight, bias, history = draw_inputs(0, (7, 2, 3, 4))
    with pytest.raises(ConfigError, match=r"history \(2, 2, 3\)"):
        ours(x, weight, bias, history[1:])
