"""Each expert's rows times its matrix, in float32 through oneDNN (see `onednn`)."""

# N tokens sorted by expert, E experts, I input width, O output width

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eyas.layers.onednn import multiply, weight_gradient

LEAST = 2**24
"""Multiplications of an expert from which on this is faster than torch's grouped product."""
ROWS = 32
"""Rows are multiplied in multiples of so many, the neighbours' among them: oneDNN takes half a millisecond to prepare
for a shape that it has not seen, and experts have other numbers of tokens in every batch."""


def product(x_NI: Tensor, ends_E: Tensor, weight_EOI: Tensor) -> Tensor:
    """(N, O); `ends` says where each expert's rows end."""
    return _Grouped.apply(x_NI, ends_E, weight_EOI)


class Rows(NamedTuple):
    """An expert's rows, and more around them."""

    expert: int
    own: slice
    around: slice
    within: slice
    """The own of those around."""


def rows_of_experts(ends: list[int], N: int) -> Iterator[Rows]:
    """Those of experts that have any."""
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end > start:
            many = min(N, -(-(end - start) // ROWS) * ROWS)
            first = min(start, N - many)
            yield Rows(expert, slice(start, end), slice(first, first + many), slice(start - first, end - first))


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, ends_E: Tensor, weight_EOI: Tensor) -> Tensor:
        for_x, _, for_weight = ctx.needs_input_grad
        ctx.save_for_backward(x_NI if for_weight else None, ends_E, weight_EOI if for_x else None)
        ctx.experts = len(weight_EOI)
        return by_expert(x_NI, ends_E.tolist(), weight_EOI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, ends_E, weight_EOI = ctx.saved_tensors
        ends, dx, dweight = ends_E.tolist(), None, None
        if weight_EOI is not None:
            dx = by_expert(dy_NO, ends, weight_EOI.mT)
        if x_NI is not None:
            dweight = x_NI.new_zeros(ctx.experts, dy_NO.shape[1], x_NI.shape[1])
            for rows in rows_of_experts(ends, len(x_NI)):
                around = x_NI[rows.around]
                dy = around.new_zeros(len(around), dy_NO.shape[1])
                dy[rows.within] = dy_NO[rows.own]
                dweight[rows.expert] = weight_gradient(around, dy)
        return dx, None, dweight


def by_expert(x_NI: Tensor, ends: list[int], weight_EOI: Tensor) -> Tensor:
    """Each expert's rows @ weight.T, outside of differentiation."""
    y_NO = x_NI.new_empty(len(x_NI), weight_EOI.shape[1])
    for rows in rows_of_experts(ends, len(x_NI)):
        y_NO[rows.own] = multiply(x_NI[rows.around], weight_EOI[rows.expert])[rows.within]
    return y_NO
