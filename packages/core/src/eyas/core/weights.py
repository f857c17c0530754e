"""The three ways to declare a weight: `column`, `row` and `replicated`.

A declaration is data: the global shape, and the named axis along which tensor-parallel ranks split it. Parameter
counts, per-rank shapes, initial values, gradient sums and checkpoint shards all follow from it; a mixer writes none of
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from eyas.core.errors import LayoutError

Initializer = Callable[[Any, Any], None]
"""Fills a whole float tensor from a torch.Generator, in place: `initializer(tensor, generator)`."""


@dataclass(frozen=True)
class Axis:
    """A named number of equal units (heads, groups, neurons) that tensor-parallel ranks divide among themselves.

    With `shared`, more ranks than units are allowed: each unit is then held by `tensor / units` neighbouring ranks, and
    the gradients of its weights are summed over them.
    """

    name: str
    """The configuration field that says how many units there are, for error messages: "num_heads"."""
    units: int
    shared: bool = False

    def check(self, kind: str, tensor: int) -> None:
        """Raises LayoutError if `tensor` ranks cannot divide the units."""
        if self.units % tensor == 0 or (self.shared and tensor % self.units == 0):
            return
        fitting = [size for size in range(1, self.units + 1) if self.units % size == 0]
        also = f", or a multiple of {self.units}" if self.shared else ""
        raise LayoutError(
            f"{kind}.{self.name}={self.units} cannot be split over layout.tensor={tensor}; "
            f"choose a divisor of {self.units} ({', '.join(map(str, fitting))}){also}"
        )

    def copies(self, tensor: int) -> int:
        """How many ranks hold the same unit: 1, unless there are fewer units than ranks."""
        return max(1, tensor // self.units)

    def local_units(self, tensor: int) -> int:
        """Units that one rank holds."""
        return max(1, self.units // tensor)

    def first_unit(self, rank: int, tensor: int) -> int:
        """Index of the first unit that tensor-parallel rank `rank` holds."""
        return rank * self.units // tensor


@dataclass(frozen=True)
class Weight:
    """One logical tensor of a model: its global shape and how tensor-parallel ranks hold it."""

    shape: tuple[int, ...]
    axis: Axis | None = None
    """The axis that is split, or None where every rank holds the whole tensor."""
    dim: int = 0
    """The dimension that the axis runs along: 0 for `column`, 1 for `row`."""
    init: Initializer | None = None
    """How to fill it; None draws from a normal distribution with the model's `init_std`."""
    float32: bool = False
    """Kept in float32 when the model computes in a lower precision."""
    decay: bool = True
    """Whether weight decay applies."""
    padding: int = 0
    """Rows at the end that stand for nothing and stay zero: they round a vocabulary up to the tensor size."""
    partial_gradient: bool = True
    """Each rank's gradient is a part of the sum (true inside a mixer, where every rank works on its own heads)."""

    trained: bool = True
    """Whether gradients change it. What a rule of its own changes, a router's selection bias say, is kept as a buffer:
    saved with the weights, and not counted among them."""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    def local_shape(self, tensor: int) -> tuple[int, ...]:
        """Shape on one of `tensor` ranks."""
        if self.axis is None:
            return self.shape
        width = self.shape[self.dim] // self.axis.units * self.axis.local_units(tensor)
        return (*self.shape[: self.dim], width, *self.shape[self.dim + 1 :])

    def local_slices(self, rank: int, tensor: int) -> tuple[slice, ...]:
        """The part of the global tensor that tensor-parallel rank `rank` holds."""
        whole = [slice(0, size) for size in self.shape]
        if self.axis is not None:
            width = self.shape[self.dim] // self.axis.units
            first = self.axis.first_unit(rank, tensor) * width
            whole[self.dim] = slice(first, first + self.axis.local_units(tensor) * width)
        return tuple(whole)

    def copies(self, tensor: int) -> int:
        """How many tensor-parallel ranks hold the same values."""
        return tensor if self.axis is None else self.axis.copies(tensor)

    def but(self, **changes: Any) -> Weight:
        """The same declaration with some fields changed."""
        return replace(self, **changes)


def column(axis: Axis, width: int, *rest: int, **options: Any) -> Weight:
    """A tensor of shape (axis.units * width, *rest), split along its first dimension: projections into heads, and
    anything that has one entry per head or channel."""
    return Weight((axis.units * width, *rest), axis, 0, **options)


def row(out: int, axis: Axis, width: int, **options: Any) -> Weight:
    """A matrix of shape (out, axis.units * width), split along its second dimension: projections out of heads, whose
    results are partial sums."""
    return Weight((out, axis.units * width), axis, 1, **options)


def replicated(*shape: int, **options: Any) -> Weight:
    """A tensor that every tensor-parallel rank holds whole; the framework sums its gradients over the ranks."""
    return Weight(shape, **options)


def vocabulary_weight(vocab_size: int, hidden_size: int, tensor: int) -> Weight:
    """A (V, D) matrix split by rows over `tensor` ranks; rows that round the vocabulary up to them stay zero."""
    padding = -vocab_size % tensor
    rows = Axis("vocab_size", vocab_size + padding)
    return column(rows, 1, hidden_size, padding=padding, partial_gradient=False)
