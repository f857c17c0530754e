"""What a mixer may ask of the ranks that have the other pieces of its sequences."""

# S sequence, s tokens of a piece, n pieces of a rank, B batch, J pieces of a sequence

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eyas.parallel import collectives
from eyas.parallel.layout import ContextExchange
from eyas.parallel.own_pieces import OwnPieces


@dataclass(frozen=True)
class Pieces:
    """Implements eyas.core.mixer.Pieces for the sequences of one microbatch.

    Every rank's result depends on what was communicated, also where that is masked: otherwise its backward pass would
    leave out a collective that the others wait in.
    """

    mine: OwnPieces
    whole_length: int
    """Tokens of a whole sequence, meta tokens included."""
    exchange: ContextExchange
    whole_documents_SB: Tensor | None = None

    @property
    def by_heads(self) -> bool:
        return self.exchange == "alltoall"

    @cached_property
    def length(self) -> int:
        """Tokens of a piece."""
        return self.mine.length(self.whole_length)

    @property
    def firsts(self) -> tuple[int, ...]:
        return tuple(number * self.length for number in self.mine.numbers)

    def before(self, x_SBC: Tensor, tokens: int) -> Tensor:
        """The ends of all pieces are gathered: the last `tokens` of each, or all of them where pieces are shorter."""
        if tokens == 0:
            return x_SBC[:0]
        kept = min(tokens, self.length)
        ends_JB = torch.stack(self._of_all(x_SBC[len(x_SBC) - kept :]))
        offsets = torch.arange(-tokens, 0, device=x_SBC.device)
        found = []
        for first in self.firsts:
            position = first + offsets
            inside = position.clamp(min=0)
            piece, token = inside // self.length, (inside % self.length - (self.length - kept)).clamp(min=0)
            foreign_KB = (position < 0)[:, None]
            if self.whole_documents_SB is not None:
                number_SB = self._document_numbers
                foreign_KB = foreign_KB | (number_SB[inside] != number_SB[first])
            last = ends_JB[piece, token]
            found.append(last.masked_fill(foreign_KB.view(*foreign_KB.shape, *[1] * (last.dim() - 2)), 0.0))
        return torch.cat(found, dim=1)

    def carried(
        self, state: Tensor, transition: Tensor, apply: Callable[[Tensor, Tensor], Tensor] = torch.mul
    ) -> Tensor:
        rows = len(state) // self.mine.each
        summary = torch.cat([transition.flatten(1), state.flatten(1)], dim=1)[None]
        width = transition[0].numel()
        before, carry = [], None
        for number, piece in enumerate(self._of_all(summary)):
            change, added = piece[0].split([width, piece.shape[-1] - width], dim=1)
            change, added = change.view(rows, *transition.shape[1:]), added.view(rows, *state.shape[1:])
            before.append(torch.zeros_like(added) if carry is None else carry)
            carry = added if carry is None else added + self._where(self._unbroken_JB, number, apply(change, carry))
            carry = self._where(self._continued_JB, number + 1, carry)
        assert carry is not None
        before[0] = carry.masked_fill(torch.ones_like(carry, dtype=torch.bool), 0.0)
        return torch.cat([before[number] for number in self.mine.numbers])

    def whole(self, x_SBC: Tensor) -> Tensor:
        return torch.cat(self._of_all(x_SBC))

    def heads(self, x_SBHP: Tensor) -> Tensor:
        """Forward and backward: all-to-all."""
        copies = self._copies(x_SBHP.shape[2])
        repeated = x_SBHP if copies == 1 else x_SBHP.repeat_interleave(copies, dim=2)
        parts = self._apart(repeated).unflatten(3, (self.mine.ranks, -1)).movedim(3, 0)
        received = collectives.exchange_between_context_ranks(parts.contiguous())
        return torch.cat([received[rank, :, own] for rank, own in self.mine.places])

    def tokens(self, x_SBHP: Tensor) -> Tensor:
        """Forward and backward: all-to-all."""
        pieces = x_SBHP.split(self.length)
        parts = [torch.stack([pieces[n] for n in self.mine.numbers_of(rank)], dim=1) for rank in range(self.mine.ranks)]
        received = collectives.exchange_between_context_ranks(torch.stack(parts))
        return received.movedim(0, 3).flatten(3, 4).flatten(1, 2)

    def own_heads(self, x_H: Tensor) -> Tensor:
        return x_H.repeat_interleave(self._copies(len(x_H)), dim=0).chunk(self.mine.ranks)[self.mine.rank]

    def _copies(self, heads: int) -> int:
        """How many ranks each head goes to: one, unless there are fewer heads than ranks."""
        return max(1, self.mine.ranks // heads)

    def _of_all(self, x_SBC: Tensor) -> list[Tensor]:
        """The piece (s, B, C) of every place in the sequence, in order, from this rank's (s, nB, C)."""
        all_ranks = collectives.gather_from_context_ranks(x_SBC).unflatten(0, (self.mine.ranks, -1))
        apart = all_ranks.unflatten(2, (self.mine.each, -1))
        return [apart[rank, :, own] for rank, own in self.mine.places]

    def _apart(self, x_SBC: Tensor) -> Tensor:
        """(s, nB, ...) as (s, n, B, ...)."""
        return x_SBC.unflatten(1, (self.mine.each, -1))

    @cached_property
    def _document_numbers(self) -> Tensor:
        """How many documents began up to each token, (S, B)."""
        assert self.whole_documents_SB is not None
        documents_SB = self.whole_documents_SB
        starts_SB = documents_SB != documents_SB.roll(1, 0)
        starts_SB[0] = True
        return starts_SB.cumsum(0)

    @cached_property
    def _unbroken_JB(self) -> Tensor | None:
        """Where no document begins behind the first token of a piece."""
        if self.whole_documents_SB is None:
            return None
        number_JSB = self._document_numbers.unflatten(0, (-1, self.length))
        return number_JSB[:, 0] == number_JSB[:, -1]

    @cached_property
    def _continued_JB(self) -> Tensor | None:
        """Where the piece before ends in the document that a piece begins in; nothing goes on behind the last."""
        if self.whole_documents_SB is None:
            return None
        number_JSB = self._document_numbers.unflatten(0, (-1, self.length))
        same = number_JSB[1:, 0] == number_JSB[:-1, -1]
        return torch.cat([torch.zeros_like(same[:1]), same, torch.zeros_like(same[:1])])

    @staticmethod
    def _where(holds_JB: Tensor | None, piece: int, value: Tensor) -> Tensor:
        """`value` in the rows for which this holds at a piece, else zero."""
        if holds_JB is None:
            return value
        return value.masked_fill(~holds_JB[piece].view(-1, *[1] * (value.dim() - 1)), 0.0)
