"""The losses of a last stage whose model minimises more than the next token's."""

# S sequence, B batch

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

LOSS = "loss"
"""The next token's loss: what every model reports, and alone unless it names more."""

HIT = "hit"
"""1 where the likeliest token is the label and 0 elsewhere: what a graded pass reports beside the next token's loss."""


@dataclass(frozen=True)
class Losses:
    """Losses of each token of a microbatch. All are divided by the number of labels of the global batch."""

    minimised_SB: Tensor
    parts: dict[str, Tensor]
    """What is reported, each (S, B), by the names that the engine was told; `loss` is the first."""
