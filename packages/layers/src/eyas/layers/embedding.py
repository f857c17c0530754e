"""Token embedding and output head, split over the tensor-parallel ranks by vocabulary."""

# S sequence, s this rank's part of it, B batch, D hidden, V vocabulary (this rank's rows)

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyas.core.mixer import Placement, empty_parameter
from eyas.core.model import ModelSpec
from eyas.core.weights import vocabulary_weight
from eyas.layers.chunked_loss import chunked_loss
from eyas.layers.cross_entropy import cross_entropy
from eyas.layers.gathered import Gathered
from eyas.layers.greedy import greedy
from eyas.layers.linear import linear
from eyas.parallel.context import Context


class Vocabulary(nn.Module):
    """The matrix of an embedding, an output head, or both where they are tied."""

    def __init__(self, spec: ModelSpec, place: Placement) -> None:
        super().__init__()
        self.place = place
        declared = vocabulary_weight(spec.vocab_size, spec.hidden_size, place.tensor)
        self.weight = empty_parameter(declared, place)
        rows = self.weight.shape[0]
        self.first = place.tensor_rank * rows
        self.rows = max(0, min(rows, spec.vocab_size - self.first))
        """Rows of this rank that stand for a token; any further ones are padding."""

    def embed(self, tokens_BS: Tensor, multiplier: float, context: Context, front_ND: Tensor | None = None) -> Tensor:
        """Embeddings of tokens (B, S), behind `front` (N, D) in every sequence, times `multiplier`. Returns (s, B, D)
        of the N + S positions, or of this rank's pieces of them."""
        tokens_SB, front_N = tokens_BS.t(), 0 if front_ND is None else front_ND.shape[0]
        if context.own_pieces is not None:
            tokens_SB = context.own(F.pad(tokens_BS, (front_N, 0))).t()
        if self.place.tensor == 1:
            return _behind(front_ND, F.embedding(tokens_SB, self.weight), context) * multiplier
        local = tokens_SB - self.first
        foreign = (local < 0) | (local >= self.weight.shape[0])
        rows = F.embedding(local.masked_fill(foreign, 0), self.weight).masked_fill(foreign[..., None], 0.0)
        if front_ND is not None and self.place.tensor_rank > 0:
            # The ranks' parts are added up. Overlapped reductions wait for a gradient of every weight, of zeros too.
            front_ND = front_ND * 0.0
        return context.reduce(_behind(front_ND, rows, context)) * multiplier

    def logits(self, h_sBD: Tensor, multiplier: float, context: Context, skip: int = 0) -> Tensor:
        """This rank's logits (S, B, V) of all but the first `skip` positions, times `multiplier`; those of padding rows
        are the lowest finite number."""
        return self._read(h_sBD, context, lambda h_SBD: self.scores(h_SBD[skip:], multiplier))

    def losses(self, h_sBD: Tensor, labels_SB: Tensor, multiplier: float, context: Context, skip: int = 0) -> Tensor:
        """The cross-entropy of each label (S, B), behind the first `skip` positions; of all tokens at once, or of as
        many as the layout says."""
        chunk = context.loss_chunk
        if chunk is None:
            return cross_entropy(self.logits(h_sBD, multiplier, context, skip), labels_SB, self.first, context)

        def read(h_SBD: Tensor) -> Tensor:
            loss_T = chunked_loss(
                h_SBD[skip:].flatten(0, 1),
                self.weight,
                labels_SB.flatten(),
                lambda h_TD: self.scores(h_TD, multiplier),
                multiplier,
                self.first,
                chunk,
                context,
            )
            return loss_T.view(labels_SB.shape)

        return self._read(h_sBD, context, read)

    def greedy(self, h_sBD: Tensor, multiplier: float, context: Context, skip: int = 0) -> Tensor:
        """The likeliest token (S, B) behind the first `skip` positions; as many at once as the layout says."""

        def read(h_SBD: Tensor) -> Tensor:
            h_TD = h_SBD[skip:].flatten(0, 1)
            parts = h_TD.split(context.loss_chunk or len(h_TD))
            tokens = [greedy(self.scores(h, multiplier), self.first, context) for h in parts]
            return torch.cat(tokens).view(-1, h_SBD.shape[1])

        return self._read(h_sBD, context, read)

    def scores(self, h: Tensor, multiplier: float) -> Tensor:
        """`logits` of gathered hidden (..., D)."""
        logits = linear(h, self.weight, scale_out=multiplier)
        if self.rows < logits.shape[-1]:
            padding = torch.arange(logits.shape[-1], device=logits.device) >= self.rows
            logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        return logits

    def _read(self, h_sBD: Tensor, context: Context, reader: Callable[[Tensor], Tensor]) -> Tensor:
        """What a reader makes of the hidden, gathered for it and not kept so."""
        read = Gathered(h_sBD, context)
        with read.remaking():
            result = reader(read.whole)
        read.results([result])
        return result


def _behind(front_ND: Tensor | None, rows_SBD: Tensor, context: Context) -> Tensor:
    """The rows with `front` before them in every sequence. A rank's pieces have room for their parts of it already."""
    if front_ND is None:
        return rows_SBD
    if context.pieces is None:
        return torch.cat([front_ND[:, None].expand(-1, rows_SBD.shape[1], -1), rows_SBD])
    filled, firsts = [], context.pieces.firsts
    for first, piece_SBD in zip(firsts, rows_SBD.chunk(len(firsts), dim=1), strict=True):
        part_ND = front_ND[first : first + len(piece_SBD)]
        filled.append(torch.cat([part_ND[:, None].expand(-1, piece_SBD.shape[1], -1), piece_SBD[len(part_ND) :]]))
    return torch.cat(filled, dim=1)
