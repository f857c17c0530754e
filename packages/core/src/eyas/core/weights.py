"""The three ways to declare a weight: `column`, `row` and `replicated`; and `per_expert` for one of these per expert.

A declaration is data: the global shape, and the named axis along which tensor-parallel ranks split it. Parameter
counts, per-rank shapes, initial values, gradient sums and checkpoint shards all follow from it; a mixer writes none of
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Self

from eyas.core.errors import LayoutError

Initializer = Callable[[Any, Any], None]
"""Fills a whole float tensor from a torch.Generator, in place: `initializer(tensor, generator)`."""

BranchPlaces = Literal["together", "halves", "swapped"]
"""Where the two branches of a block lie: on all tensor-parallel ranks, each on a half of them, or on halves that swap
from one such block to the next."""


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A rank's place in the two grids that weights are divided over: the one of the experts, and everything else's."""

    tensor_rank: int = 0
    tensor: int = 1
    """Ranks that divide each axis among themselves."""
    expert_rank: int = 0
    expert: int = 1
    """Ranks that divide the experts of a mixture among themselves."""
    expert_tensor_rank: int = 0
    expert_tensor: int = 1
    """Ranks that divide each expert's axis among themselves."""
    branches: BranchPlaces = "together"
    """Where the two branches of a block lie."""

    def of_branch(self, branch: int, pair: int) -> Self | None:
        """The rank's place among those that hold a block's first or second branch (0 or 1), None where it is not among
        them. `pair` is how many blocks of two branches stand before this one."""
        half, swap = self.tensor // 2, self.branches == "swapped" and pair % 2 == 1
        if self.branches == "together":
            return self
        if (self.tensor_rank >= half) != (bool(branch) != swap):
            return None
        return replace(self, tensor_rank=self.tensor_rank % half, tensor=half, branches="together")

    @staticmethod
    def of(tensor: int = 1, expert: int = 1, expert_tensor: int | None = None) -> Coordinates:
        """The first rank of grids of these sizes; experts are split like everything else unless told otherwise."""
        inside = tensor if expert_tensor is None else expert_tensor
        return Coordinates(tensor=tensor, expert=expert, expert_tensor=inside)


WHOLE = Coordinates()
"""One rank that holds everything."""


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

    def check(self, kind: str, tensor: int, field: str = "tensor") -> None:
        """Raises LayoutError if `tensor` ranks, as many as `layout.field` says, cannot divide the units."""
        if self.units % tensor == 0 or (self.shared and tensor % self.units == 0):
            return
        fitting = [size for size in range(1, self.units + 1) if self.units % size == 0]
        also = f", or a multiple of {self.units}" if self.shared else ""
        raise LayoutError(
            f"{kind}.{self.name}={self.units} cannot be split over layout.{field}={tensor}; "
            f"choose a divisor of {self.units} ({', '.join(map(str, fitting))}){also}"
        )

    def check_exchange(self, kind: str, tensor: int, context: int) -> None:
        """Raises LayoutError if `context` ranks cannot share the units that one of `tensor` ranks holds."""
        here = self.local_units(tensor)
        if here % context == 0 or (self.shared and context % here == 0):
            return
        raise LayoutError(
            f"{kind}.{self.name}={self.units} leaves {here} to each of layout.tensor={tensor} ranks, which "
            f"layout.context={context} ranks cannot share; choose a divisor of it, or layout.context_exchange=gather"
        )

    def copies(self, tensor: int) -> int:
        """How many ranks hold the same unit: 1, unless there are fewer units than ranks."""
        return max(1, tensor // self.units)

    def local_units(self, tensor: int) -> int:
        """Units that one rank holds."""
        return max(1, self.units // tensor)


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
    expert: bool = False
    """The first dimension counts the experts of a mixture: they, and the axis inside each, are divided over a grid of
    ranks of their own."""
    trained: bool = True
    """Whether gradients change it. What a rule of its own changes, a router's selection bias say, is kept as a buffer:
    saved with the weights, and not counted among them."""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    def parts(self, at: Coordinates) -> list[tuple[int, int, int]]:
        """Along which dimensions a rank holds a part: (dimension, number of the part, number of parts)."""
        found = [(0, at.expert_rank, at.expert)] if self.expert else []
        if self.axis is not None:
            rank, ranks = (at.expert_tensor_rank, at.expert_tensor) if self.expert else (at.tensor_rank, at.tensor)
            parts = self.axis.units // self.axis.local_units(ranks)
            found.append((self.dim, rank * parts // ranks, parts))
        return found

    def local_shape(self, at: Coordinates) -> tuple[int, ...]:
        """Shape of what a rank holds."""
        return tuple(part.stop - part.start for part in self.local_slices(at))

    def local_slices(self, at: Coordinates) -> tuple[slice, ...]:
        """The part of the global tensor that a rank holds."""
        whole = [slice(0, size) for size in self.shape]
        for dim, part, parts in self.parts(at):
            width = self.shape[dim] // parts
            whole[dim] = slice(part * width, (part + 1) * width)
        return tuple(whole)

    def copies(self, at: Coordinates) -> int:
        """How many tensor-parallel ranks hold the same values; one for experts, whose copies are replicas."""
        if self.expert:
            return 1
        return at.tensor if self.axis is None else self.axis.copies(at.tensor)

    def check(self, kind: str, at: Coordinates) -> None:
        """Raises LayoutError where the ranks cannot divide the weight of a mixer of this kind."""
        if self.expert:
            Axis("num_experts", self.shape[0]).check(kind, at.expert, "expert")
        if self.axis is not None and self.expert:
            self.axis.check(kind, at.expert_tensor, "expert_tensor")
        elif self.axis is not None:
            self.axis.check(kind, at.tensor)

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


def per_expert(experts: int, weight: Weight) -> Weight:
    """A weight of each of so many experts, in one tensor with a dimension more in front."""
    return weight.but(shape=(experts, *weight.shape), dim=weight.dim + 1, expert=True)


def vocabulary_weight(vocab_size: int, hidden_size: int, tensor: int) -> Weight:
    """A (V, D) matrix split by rows over `tensor` ranks; rows that round the vocabulary up to them stay zero."""
    padding = -vocab_size % tensor
    rows = Axis("vocab_size", vocab_size + padding)
    return column(rows, 1, hidden_size, padding=padding, partial_gradient=False)
