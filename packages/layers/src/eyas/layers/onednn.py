"""Matrix products in float32 through oneDNN, which comes with torch, on CPUs where torch's own choice is slower.

Torch multiplies float32 with MKL, which uses AVX-512 on Intel's CPUs alone: on a core of AMD's Zen 5 it reached 90 to
115 GFLOP/s where oneDNN reached 150 to 250.
"""

# T tokens, I input width, O output width

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

LEAST = 2**21
"""Multiplications from which on oneDNN is faster: asking it takes ten microseconds longer."""

CPUS = Path("/proc/cpuinfo")
PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""None where torch is built without oneDNN."""


def takes(x: Tensor, weight: Tensor, least: int) -> bool:
    """Whether oneDNN is the faster way to x (T, I) @ weight.T, (I, O), or to the same with the weights (E, O, I) of
    experts that share the rows of x; it is from `least` multiplications on."""
    return (
        x.dtype == weight.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
        and x.device.type == weight.device.type == "cpu"
        and x.numel() * weight.shape[-2] >= least
        and is_faster()
    )


@cache
def is_faster() -> bool:
    """Whether torch has oneDNN, and this CPU AVX-512 without being Intel's."""
    if PRODUCT is None or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return CPUS.exists() and "GenuineIntel" not in CPUS.read_text()


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, scale: float, bias_scale: float) -> Tensor:
    """scale * x @ weight.T + bias_scale * bias, (T, O)."""
    return _Product.apply(x_TI, weight_OI, bias_O, scale, bias_scale)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, scale: float, bias_scale: float
    ) -> Tensor:
        for_x, for_weight, _, _, _ = ctx.needs_input_grad
        ctx.save_for_backward(x_TI if for_weight else None, weight_OI if for_x else None)
        ctx.scale, ctx.bias_scale = scale, bias_scale
        bias = None if bias_O is None else scaled(bias_O, bias_scale).contiguous()
        return multiply(x_TI, weight_OI, scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI = ctx.saved_tensors
        dx = dweight = dbias = None
        if weight_OI is not None:
            dx = multiply(dy_TO, weight_OI.t(), ctx.scale)
        if x_TI is not None:
            dweight = scaled(weight_gradient(x_TI, dy_TO), ctx.scale)
        if ctx.needs_input_grad[2]:
            dbias = scaled(dy_TO.sum(0), ctx.bias_scale)
        return dx, dweight, dbias, None, None


def scaled(values: Tensor, scale: float) -> Tensor:
    return values if scale == 1.0 else values * scale


def multiply(x_TI: Tensor, weight_OI: Tensor, scale: float = 1.0, bias_O: Tensor | None = None) -> Tensor:
    """scale * x @ weight.T + bias, outside of differentiation."""
    assert PRODUCT is not None
    if x_TI.numel() < weight_OI.numel():
        x_TI = scaled(x_TI, scale)
    else:
        weight_OI = scaled(weight_OI, scale)
    y: Tensor = PRODUCT(plain(x_TI), plain(weight_OI), bias_O, "none", [], "")
    return y


def weight_gradient(x_TI: Tensor, dy_TO: Tensor) -> Tensor:
    """dy.T @ x, (O, I); up to 1.6 times as fast with the narrower of the two as the rows."""
    if dy_TO.shape[1] > x_TI.shape[1]:
        return multiply(x_TI.t(), dy_TO.t()).t()
    return multiply(dy_TO.t(), x_TI.t())


def plain(matrix: Tensor) -> Tensor:
    """The matrix in rows, or in columns, of its own: one number may not stand in several places."""
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    if (across == 1 and down >= columns) or (down == 1 and across >= rows):
        return matrix
    return matrix.contiguous()


def flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **options: Any) -> int:
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0]


if PRODUCT is not None:
    register_flop_formula(PRODUCT)(flops)
