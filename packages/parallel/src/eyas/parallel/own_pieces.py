"""Which pieces of a sequence each context-parallel rank has."""

# S sequence, s tokens of a piece, B batch

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eyas.core.errors import LayoutError
from eyas.parallel.layout import ContextOrder


@dataclass(frozen=True)
class OwnPieces:
    """Sequences cut into equal pieces, of which a rank has one, or under `zigzag` two: the first of c ranks has the
    first and the last of 2c pieces. A rank's pieces stand side by side in the batch: all rows' first, then all rows'
    second."""

    rank: int
    ranks: int
    order: ContextOrder

    @property
    def each(self) -> int:
        """Pieces of a sequence that one rank has."""
        return 2 if self.order == "zigzag" else 1

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """This rank's pieces, counted from the front of the sequence."""
        return self.numbers_of(self.rank)

    def numbers_of(self, rank: int) -> tuple[int, ...]:
        """The pieces of a rank, counted from the front of the sequence."""
        return (rank, 2 * self.ranks - 1 - rank) if self.order == "zigzag" else (rank,)

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """The rank and the number among its own of each piece, from the front of the sequence on."""
        owners = {self.numbers_of(rank)[own]: (rank, own) for rank in range(self.ranks) for own in range(self.each)}
        return tuple(owners[number] for number in range(len(owners)))

    def length(self, whole: int) -> int:
        """Tokens of a piece of sequences of `whole` tokens. Raises LayoutError where the pieces would differ."""
        pieces = self.ranks * self.each
        if whole % pieces:
            raise LayoutError(
                f"{whole} tokens cannot be cut into the {pieces} pieces of layout.context={self.ranks}; "
                f"use a multiple of {pieces}"
            )
        return whole // pieces

    def own(self, rows_BS: Tensor) -> Tensor:
        """This rank's pieces of whole rows (B, S), side by side: one or two times B rows of s."""
        pieces = rows_BS.split(self.length(rows_BS.shape[1]), dim=1)
        return torch.cat([pieces[number] for number in self.numbers])
