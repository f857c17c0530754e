"""Mamba-2 where context-parallel ranks exchange tokens for heads."""

# S sequence, B batch, H heads, P head dim, G groups, N state size

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from eyas.core.mixer import Pieces
from eyas.layers.conv import causal_conv_by_heads
from eyas.layers.ssd import ssd

if TYPE_CHECKING:
    from eyas.layers.mamba2 import Mamba2


def mix_by_heads(mixer: Mamba2, inputs: dict[str, Tensor], dt: Tensor, pieces: Pieces) -> Tensor:
    """Convolution and scan of whole sequences of this rank's share of the heads, for its pieces of all heads, and back
    to these: (S, B, H, P). Ranks with heads of one group each have its B and C."""
    c = mixer.config
    x_SBHP, B_SBGN, C_SBGN = (
        causal_conv_by_heads(mixer.split(inputs[name], width), *mixer.taps(name), pieces)
        for name, width in (("x", c.head_dim), ("B", c.state_size), ("C", c.state_size))
    )
    y_SBHP, _ = ssd(
        x_SBHP,
        pieces.heads(mixer.time_step(dt)[..., None])[..., 0],
        pieces.own_heads(mixer.decay()),
        B_SBGN,
        C_SBGN,
        pieces.own_heads(mixer.D),
        documents_SB=pieces.whole_documents_SB,
        kernel=c.kernel,
        chunk_size=c.chunk_size,
    )
    return pieces.tokens(y_SBHP)
