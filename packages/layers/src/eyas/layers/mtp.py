"""Multi-token prediction: depths behind the last block that predict further tokens (DeepSeek-AI, 2024, section 2.2)."""

# S sequence, s this rank's part of it, B batch, D hidden

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyas.core.block_config import BlockSpec
from eyas.core.mixer import Placement, empty_parameter
from eyas.core.model import ModelSpec
from eyas.core.weights import replicated
from eyas.layers.block import Block
from eyas.layers.cross_entropy import IGNORED
from eyas.layers.dropout import Dropout
from eyas.layers.linear import linear
from eyas.layers.norm import RMSNorm
from eyas.parallel.context import Context

Embed = Callable[[Tensor, Context], Tensor]
"""Tokens (B, S) to embeddings (s, B, D)."""
Loss = Callable[[Tensor, Tensor, Context], Tensor]
"""Normed hidden (s, B, D) and labels (B, S) to each token's loss (S, B)."""


class Depth(nn.Module):
    """norm(blocks(join [norm(embedding of the token k ahead); norm(h)])), h the normed output of the depth before.

    `join` is whole on every tensor-parallel rank, and each applies it to the tokens that it has, like a norm's weight.
    """

    def __init__(self, spec: ModelSpec, blocks: tuple[BlockSpec, ...], place: Placement) -> None:
        super().__init__()
        width = spec.hidden_size
        self.embedding_norm = RMSNorm(width, spec.norm_epsilon, place)
        self.hidden_norm = RMSNorm(width, spec.norm_epsilon, place)
        self.join = empty_parameter(replicated(width, 2 * width, partial_gradient=False), place)
        self.blocks = nn.ModuleList(Block(spec, block, place) for block in blocks)
        self.final_norm = RMSNorm(width, spec.norm_epsilon, place)

    def forward(
        self, h_sBD: Tensor, embedded_sBD: Tensor, context: Context, dropout: Dropout, first_block: int
    ) -> Tensor:
        """h, embedded: (s, B, D). Returns the same shape, normed: for the head, and for the next depth. For dropout the
        blocks are numbered from `first_block` on."""
        x_sBD = self.joined(h_sBD, embedded_sBD)
        for number, block in enumerate(self.in_order(), first_block):
            x_sBD = x_sBD + dropout(number, block.output(x_sBD, context))
        return self.final_norm(x_sBD)

    def joined(self, h_sBD: Tensor, embedded_sBD: Tensor) -> Tensor:
        """What the first block reads."""
        both = torch.cat([self.embedding_norm(embedded_sBD), self.hidden_norm(h_sBD)], dim=-1)
        return linear(both, self.join)

    def initial_state(self, batch: int) -> list[list[object]]:
        """Decoding state of every block, for `batch` sequences."""
        return [block.initial_state(batch) for block in self.in_order()]

    def prefill(
        self, h_SBD: Tensor, embedded_SBD: Tensor, states: list[list[object]], context: Context
    ) -> tuple[Tensor, list[list[object]]]:
        """`forward` of several tokens behind those that made the states; also returns the next states."""
        x_SBD, after = self.joined(h_SBD, embedded_SBD), []
        for block, state in zip(self.in_order(), states, strict=True):
            x_SBD, state = block.further(x_SBD, state, context)
            after.append(state)
        return self.final_norm(x_SBD), after

    def in_order(self) -> list[Block]:
        """The depth's blocks in order."""
        return list(self.blocks)  # type: ignore[arg-type]  # torch's container knows modules alone


class Tail(nn.Module):
    """All depths. The module of a depth is `depths[k]`; repeated depths are one module, applied several times."""

    def __init__(self, spec: ModelSpec, place: Placement) -> None:
        super().__init__()
        self.number = len(spec.depths)
        self.first_block = len(spec.blocks)
        self.depths = nn.ModuleList(Depth(spec, blocks, place) for blocks in spec.tail)

    def in_order(self) -> list[Depth]:
        """The module of each depth, the nearest first."""
        depths: list[Depth] = list(self.depths)  # type: ignore[arg-type]  # torch's container knows modules alone
        return [depths[min(k, len(depths) - 1)] for k in range(self.number)]

    def forward(
        self,
        h_sBD: Tensor,
        tokens_BS: Tensor,
        labels_BS: Tensor,
        documents_BS: Tensor | None,
        embed: Embed,
        loss: Loss,
        context: Context,
        dropout: Dropout,
    ) -> Tensor:
        """The mean over the depths of each token's loss, (S, B). h: (s, B, D), the normed output of the main blocks.

        Depth k reads at position i the token i + k and predicts the label of position i + k. There is no loss where
        that position is beyond the end, in another document, or without a label. Dropout numbers all blocks on behind
        the main ones, also those of a depth that is applied again.
        """
        losses, block = [], self.first_block
        for k, depth in enumerate(self.in_order(), 1):
            h_sBD = depth(h_sBD, embed(ahead(tokens_BS, k, 0), context), context, dropout, block)
            block += len(depth.blocks)
            labels = ahead(labels_BS, k, IGNORED)
            if documents_BS is not None:
                labels = labels.masked_fill(ahead(documents_BS, k, -1) != documents_BS, IGNORED)
            losses.append(loss(h_sBD, labels, context))
        return torch.stack(losses).mean(0)


def ahead(values_BS: Tensor, k: int, beyond: int) -> Tensor:
    """The value k positions on, (B, S); `beyond` where there is none."""
    return F.pad(values_BS[:, k:], (0, min(k, values_BS.shape[1])), value=beyond)
