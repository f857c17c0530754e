"""Mamba-2 where context-parallel ranks exchange tokens for heads."""

# S sequence, B batch, H heads, P head dim, G groups, N state size

from __future__ import annotations

from typing import Any

from torch import Tensor

from eyas.core.mixer import Mixer, Pieces
from eyas.layers.conv import causal_conv
from eyas.layers.ssd import ssd


def mix_by_heads(mixer: Mixer, inputs: dict[str, Tensor], dt: Tensor, pieces: Pieces) -> Tensor:
    """Convolution and scan of whole sequences of this rank's share of the heads, for its pieces of all heads, and back
    to these: (S, B, H, P). `mixer` is a Mamba2; ranks with heads of one group each have its B and C."""
    c: Any = mixer.config
    documents = pieces.whole_documents_SB
    convolved = []
    for name, width in (("x", c.head_dim), ("B", c.state_size), ("C", c.state_size)):
        whole = pieces.heads(mixer.split(inputs[name], width)).flatten(2)
        weight, bias = (
            None if taps is None else pieces.own_heads(taps.unflatten(0, (-1, width))).flatten(0, 1)
            for taps in mixer.taps(name)
        )
        assert weight is not None
        convolved.append(mixer.split(causal_conv(whole, weight, bias, documents_SB=documents), width))
    x_SBHP, B_SBGN, C_SBGN = convolved
    y_SBHP, _ = ssd(
        x_SBHP,
        pieces.heads(mixer.time_step(dt)[..., None])[..., 0],
        pieces.own_heads(mixer.decay()),
        B_SBGN,
        C_SBGN,
        pieces.own_heads(mixer.D),
        documents_SB=documents,
        kernel=c.kernel,
        chunk_size=c.chunk_size,
    )
    return pieces.tokens(y_SBHP)
