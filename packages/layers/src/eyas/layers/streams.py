"""What flows between blocks: the residual stream, the token embeddings, and what a block wrote aside for the next."""

# s this rank's part of the sequence, B batch, D hidden; decoding has no s

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eyas.core.block_config import BlockConfig


@dataclass(frozen=True)
class Streams:
    """Tensors of one shape, (s, B, D), or (B, D) while decoding."""

    residual: Tensor
    embedding: Tensor
    """What the residual stream began as, on the first stage of a pipeline."""
    aside: Tensor | None = None

    @staticmethod
    def begin(hidden: Tensor) -> Streams:
        """The streams before the first block of a model or stage."""
        return Streams(hidden, hidden)

    def read(self, options: BlockConfig) -> Tensor:
        """What a block with these options reads."""
        if options.reads == "aside":
            assert self.aside is not None
            return self.aside
        stream = self.residual if self.aside is None else self.residual + self.aside
        return torch.cat([stream, self.embedding], -1) if options.reads == "stream_and_embedding" else stream

    def write(self, options: BlockConfig, output: Tensor) -> Streams:
        """The streams behind a block with these options; what stood aside has been read."""
        if options.writes == "aside":
            return replace(self, aside=output)
        return replace(self, residual=self.residual + output, aside=None)
