"""What a forward pass knows of the layout: the collectives at the edges of a block, and the packed documents."""

# S sequence, s this rank's part of it, B batch, D hidden

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from eyas.core.errors import LayoutError
from eyas.core.mixer import Dispatched, Pieces, Placement, Routed
from eyas.core.recompute import Recompute
from eyas.core.routing import RoutingRule
from eyas.core.weights import Coordinates, Weight
from eyas.parallel.layout import ContextExchange, Dispatcher
from eyas.parallel.own_pieces import OwnPieces


@dataclass(frozen=True)
class Context:
    """Implements eyas.core.mixer.MixerContext for any layout; with one tensor-parallel rank nothing is communicated."""

    place: Placement = Placement()
    sequence: bool = False
    """Between blocks each tensor-parallel rank keeps its own part of the sequence."""
    dispatcher: Dispatcher = "alltoall"
    own_pieces: OwnPieces | None = None
    """Which pieces of its sequences this rank has; None for whole sequences."""
    exchange: ContextExchange = "gather"
    """How mixers with heads share them."""
    documents_SB: Tensor | None = None
    pieces: Pieces | None = None
    lent: dict[str, Any] = field(default_factory=dict, compare=False)
    """Filled during a pass, which begins with a context of its own."""
    recompute: Recompute = ()
    """What the backward pass computes again."""
    loss_chunk: int | None = None
    """Tokens whose logits are made at once; None for all of a microbatch."""
    forgotten: bool = False
    """Inside of what is computed again as a whole, so that nothing in it need be dropped by itself."""
    repeats: bool = False
    """Whether this pass is that second one."""

    def of(self, length: int, documents_BS: Tensor | None) -> Context:
        """This context for a microbatch of sequences of `length` tokens, whose documents are (B, S)."""
        whole_SB = None if documents_BS is None else documents_BS.t()
        if self.own_pieces is None:
            return replace(self, documents_SB=whole_SB, lent={})
        from eyas.parallel import pieces

        own_SB = None if documents_BS is None else self.own_pieces.own(documents_BS).t()
        own_pieces = pieces.Pieces(self.own_pieces, length, self.exchange, whole_SB)
        return replace(self, documents_SB=own_SB, pieces=own_pieces, lent={})

    def own(self, rows_BS: Tensor) -> Tensor:
        """Whole rows (B, S) as this rank works on them: unchanged, or its pieces side by side."""
        return rows_BS if self.own_pieces is None else self.own_pieces.own(rows_BS)

    def at(self, place: Coordinates) -> Context:
        """The context of a branch that lies on a part of the tensor-parallel ranks; its own on all of them."""
        if (place.tensor, place.tensor_rank) == (self.place.tensor, self.place.tensor_rank):
            return self
        return replace(self, place=replace(self.place, tensor=place.tensor, tensor_rank=place.tensor_rank))

    def gather(self, x_sBD: Tensor) -> Tensor:
        """The normed input as every branch reads it, (S, B, D); its gradient is summed over the ranks."""
        if self.place.tensor == 1:
            return x_sBD
        from eyas.parallel import collectives

        return collectives.gather_sequence(x_sBD) if self.sequence else collectives.copy_to_tensor_ranks(x_sBD)

    def begin_gather(self, x_sBD: Tensor) -> Callable[[], Tensor]:
        """Begins what `gather` does between ranks that split the sequence, once more and outside of differentiation;
        what it returns waits for (S, B, D)."""
        from eyas.parallel import collectives

        return collectives.begin_gather_sequence(x_sBD)

    def reduce(self, partial_SBD: Tensor) -> Tensor:
        """The sum of the ranks' partial sums, as the residual stream keeps it, (s, B, D)."""
        if self.place.tensor == 1:
            return partial_SBD
        from eyas.parallel import collectives

        if self.sequence:
            return collectives.reduce_scatter_sequence(partial_SBD)
        return collectives.sum_over_tensor_ranks(partial_SBD)

    def sum_over_copies(self, partial: Tensor, weight: Weight) -> Tensor:
        """Sum over the ranks that hold the same unit of the weight's axis, differentiable."""
        copies = weight.copies(self.place)
        if copies == 1:
            return partial
        from eyas.parallel import collectives, groups

        return collectives.sum_over_copies(partial, groups.copies_group(copies))

    def route(self, logits_sBE: Tensor, rule: RoutingRule, selection_bias_E: Tensor | None) -> Routed:
        """Experts for each of this rank's tokens; see eyas.core.mixer.MixerContext. Raises LayoutError where every
        tensor-parallel rank holds all tokens."""
        if self.place.tensor > 1 and not self.sequence:
            raise LayoutError(
                f"tokens choose experts on one rank each: layout.tensor={self.place.tensor} needs layout.sequence=true"
            )
        from eyas.parallel import experts

        each, ranks = (1, 1) if self.own_pieces is None else (self.own_pieces.each, self.own_pieces.ranks)
        return experts.route(logits_sBE, rule, selection_bias_E, shards=self.shards * ranks, pieces=each)

    def dispatch(self, x_sBD: Tensor, routed: Routed, rule: RoutingRule) -> Dispatched:
        """This rank's tokens, sent to their experts."""
        from eyas.parallel import experts

        return experts.dispatch(x_sBD, routed, rule, self.dispatcher, self.place)

    @property
    def shards(self) -> int:
        """Tensor-parallel ranks that hold parts of one sequence between blocks."""
        return self.place.tensor if self.sequence else 1

    def sum_over_ranks(self, partial: Tensor) -> Tensor:
        """Sum over the ranks that the mixer lies on, of which each goes on with its own work; differentiable."""
        if self.place.tensor == 1:
            return partial
        from eyas.parallel import collectives, groups

        return collectives.sum_over_copies(partial, groups.copies_group(self.place.tensor))

    def total(self, value: Tensor) -> Tensor:
        """Sum over the tensor-parallel ranks, outside of differentiation."""
        if self.place.tensor == 1:
            return value
        from eyas.parallel import collectives

        return collectives.sum_over_tensor_ranks(value)

    def maximum(self, value: Tensor) -> Tensor:
        """Maximum over the tensor-parallel ranks, outside of differentiation."""
        if self.place.tensor == 1:
            return value
        from eyas.parallel import collectives

        return collectives.max_over_tensor_ranks(value)
