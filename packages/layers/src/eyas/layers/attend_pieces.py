"""Softmax attention where context-parallel ranks share sequences: by exchanged heads, or among gathered keys."""

# S sequence, B batch, H query heads, K key-value heads, P head dim

from collections.abc import Callable

import torch
from torch import Tensor

from eyas.core.mixer import Pieces
from eyas.layers.attend import visible

Read = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries, keys, values and mask to what each query reads."""


def by_heads(
    read: Read,
    q_SBHP: Tensor,
    k_SBKP: Tensor,
    v_SBKP: Tensor,
    pieces: Pieces,
    window: int | None = None,
    sinks: int = 0,
) -> Tensor:
    """`read(q, k, v, mask)` of whole sequences of this rank's share of the heads, for its pieces of all heads, and back
    to these: (S, B, H, P)."""
    q, k, v = (pieces.heads(t) for t in (q_SBHP, k_SBKP, v_SBKP))
    return pieces.tokens(read(q, k, v, visible(len(q), window, sinks, pieces.whole_documents_SB, q.device)))


def by_pieces(
    read: Read,
    q_SBHP: Tensor,
    k_SBKP: Tensor,
    v_SBKP: Tensor,
    pieces: Pieces,
    window: int | None = None,
    sinks: int = 0,
) -> Tensor:
    """`read(q, k, v, mask)` of this rank's pieces, each among the whole keys and values up to its own end: (S, B, H, P)
    of the queries side by side. What lies above the diagonal is no work, nor what lies before a window without sinks.
    """
    found, documents_SB = [], pieces.whole_documents_SB
    for first, q_piece in zip(pieces.firsts, q_SBHP.chunk(len(pieces.firsts), dim=1), strict=True):
        begin = 0 if window is None or sinks else max(0, first - window + 1)
        seen = slice(begin, first + len(q_piece))
        documents = None if documents_SB is None else documents_SB[seen]
        mask = visible(seen.stop - begin, window, sinks, documents, q_piece.device, queries=len(q_piece))
        found.append(read(q_piece, k_SBKP[seen], v_SBKP[seen], mask))
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)
