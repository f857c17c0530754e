"""The language model: embedding, blocks, final norm, head; whole, or as one stage of a pipeline."""

# S sequence, s this rank's part of it, B batch, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from eyas.core.arrangement import pairs_before
from eyas.core.errors import ConfigError
from eyas.core.mixer import empty_parameter, held
from eyas.core.model import ModelSpec
from eyas.core.weights import replicated
from eyas.layers.block import Block, Branches
from eyas.layers.cross_entropy import IGNORED
from eyas.layers.dropout import Dropout
from eyas.layers.embedding import Vocabulary
from eyas.layers.initial import initialise, is_hidden
from eyas.layers.mtp import Tail
from eyas.layers.norm import RMSNorm
from eyas.layers.output_scale import OutputScale
from eyas.layers.shared import SharedUse
from eyas.layers.streams import Streams
from eyas.parallel.context import Context
from eyas.parallel.losses import HIT, LOSS, Losses
from eyas.parallel.regions import region

MTP_LOSS = "mtp_loss"
"""The mean over the depths of the multi-token-prediction loss, before its weight."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks: the first stage also embeds, the last one also predicts."""

    blocks: range
    first: bool
    last: bool

    @staticmethod
    def whole(spec: ModelSpec) -> Stage:
        """The stage that is the whole model."""
        return Stage(range(len(spec.pattern.blocks)), True, True)


class HybridLM(nn.Module):
    """A stack of blocks given by a pattern. Parameter names are global: a stage has those of the whole model."""

    def __init__(self, spec: ModelSpec, context: Context | None = None, stage: Stage | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.context = context or Context()
        self.stage = stage or Stage.whole(spec)
        place = self.context.place
        if self.stage.first or (self.stage.last and spec.embeds_twice):
            self.embedding = Vocabulary(spec, place)
        if self.stage.first and spec.meta_tokens:
            self.meta_tokens = empty_parameter(replicated(spec.meta_tokens, spec.hidden_size), place)
        blocks, pairs = {index: spec.blocks[index] for index in self.stage.blocks}, pairs_before(spec.blocks)
        once = {blocks[index].name: index for index in reversed(blocks) if blocks[index].options.shared}
        shared = {str(name): Branches(spec, blocks[index], place, pairs[index]) for name, index in once.items()}
        self.shared = nn.ModuleDict(shared)
        self.blocks = nn.ModuleDict(
            {
                str(index): SharedUse(spec, block, place, shared[str(block.name)])
                if block.options.shared
                else Block(spec, block, place, pairs[index])
                for index, block in blocks.items()
            }
        )
        self.outputs = nn.ModuleDict()
        if self.stage.last:
            self.final_norm = RMSNorm(spec.hidden_size, spec.norm_epsilon, place)
            if not spec.tie_embeddings:
                self.head = Vocabulary(spec, place)
            if spec.depths:
                self.mtp = Tail(spec, place)

    def initialise(self, seed: int) -> HybridLM:
        """Draws the weights; a layout never changes them."""
        initialise(self, seed, self.spec.init_std, self.spec.hidden_std)
        return self

    def watch_outputs(self) -> None:
        """Has every training step tell the root mean square of each block's output."""
        self.outputs.update({str(index): OutputScale(self.context.place.device) for index in self.stage.blocks})

    def forward(
        self,
        tokens_BS: Tensor,
        labels_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
        hidden_sBD: Tensor | None = None,
        seeds_BS: Tensor | None = None,
        graded: bool = False,
    ) -> Tensor | Losses:
        """One microbatch through this stage.

        tokens, labels, documents and, for dropout, seeds (see `token_seeds`): (B, S); hidden: (s, B, D), what the
        previous stage sent. Returns hidden (s, B, D) for the next stage; from the last one the loss of each token
        (S, B), or without labels this rank's logits (S, B, V). With a multi-token-prediction tail there are several
        losses. Where ranks share sequences all of them are given the whole, and work on their own pieces, side by side
        in the batch. `graded` asks for hits beside the next token's loss, and for nothing of the tail.
        """
        if documents_BS is not None and self.spec.meta_tokens:
            raise ConfigError("meta tokens stand in front of a row, not of each of its packed documents")
        context = self.context.of(tokens_BS.shape[1] + self.spec.meta_tokens, documents_BS)
        if self.stage.first:
            hidden_sBD = self.embed(tokens_BS, context, self.meta_tokens if self.spec.meta_tokens else None)
        assert hidden_sBD is not None
        streams = Streams.begin(hidden_sBD)
        dropout = Dropout.here(self.spec.dropout, seeds_BS, self.spec.meta_tokens, context)
        for index, block in zip(self.stage.blocks, self.placed_blocks(), strict=True):
            with region(f"block {index}"):
                output_sBD = block.output(streams.read(block.options), context)
                if self.outputs:
                    self.outputs[str(index)](output_sBD)
                streams = streams.write(block.options, dropout(index, output_sBD))
        if not self.stage.last:
            return streams.residual
        normed_sBD = self.final_norm(streams.residual)
        if labels_BS is None:
            return self.logits(normed_sBD, context, skip=0 if context.own_pieces else self.spec.meta_tokens)
        loss_SB = self.loss(normed_sBD, labels_BS, context)
        if graded:
            return Losses(loss_SB, {LOSS: loss_SB, HIT: self.hits(normed_sBD, labels_BS, context)})
        if not self.spec.depths:
            return loss_SB
        further_SB = self.mtp(normed_sBD, tokens_BS, labels_BS, documents_BS, self.embed, self.loss, context, dropout)
        total_SB = loss_SB + self.spec.mtp_loss_weight * further_SB
        return Losses(total_SB, {LOSS: loss_SB, MTP_LOSS: further_SB})

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that the last stage reports."""
        return (LOSS, MTP_LOSS) if self.spec.depths else (LOSS,)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Factors by which weights learn faster or slower than the others, by name."""
        return {name: self.spec.hidden_rate for name, _, weight, _ in held(self) if is_hidden(name, weight)}

    def initial_state(self, batch: int) -> list[list[object]]:
        """Decoding state of every block before the first token, for `batch` sequences."""
        states = [block.initial_state(batch) for block in self.placed_blocks()]
        if not self.spec.meta_tokens:
            return states
        meta_MBD = self.meta_tokens[:, None].expand(-1, batch, -1) * self.spec.embedding_multiplier
        return self.advance(meta_MBD, states)[1]

    def step(self, tokens_B: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """One token a sequence: tokens (B,) and the states so far to logits (B, V) and the next states."""
        h_SBD, states = self.prefill(tokens_B[:, None], states)
        return self.logits(self.final_norm(h_SBD), self.context)[0], states

    def prefill(self, tokens_BS: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """Several tokens a sequence: tokens (B, S) and the states so far to hidden (S, B, D) and the next states."""
        return self.advance(self.embed(tokens_BS, self.context), states)

    def advance(self, h_SBD: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """Further positions through all blocks: their embeddings (S, B, D) and the states so far to the residual stream
        behind the last block (S, B, D) and the next states."""
        streams, after, context = Streams.begin(h_SBD), [], replace(self.context, lent={})
        for block, state in zip(self.placed_blocks(), states, strict=True):
            output_SBD, state = block.further_output(streams.read(block.options), state, context)
            streams = streams.write(block.options, output_SBD)
            after.append(state)
        return streams.residual, after

    def embed(self, tokens_BS: Tensor, context: Context, front: Tensor | None = None) -> Tensor:
        """Embeddings of tokens (B, S), behind those of `front` (M, D) where there are any. Returns (s, B, D)."""
        return self.embedding.embed(tokens_BS, self.spec.embedding_multiplier, context, front)

    def placed_blocks(self) -> list[Block | SharedUse]:
        """This stage's blocks in order."""
        return list(self.blocks.values())  # type: ignore[arg-type]  # torch's container knows modules alone

    def logits(self, normed_sBD: Tensor, context: Context, skip: int = 0) -> Tensor:
        """The head alone, which the multi-token-prediction depths share, behind the first `skip` positions."""
        return self.output.logits(normed_sBD, self.spec.lm_head_multiplier, context, skip=skip)

    def loss(self, normed_sBD: Tensor, labels_BS: Tensor, context: Context) -> Tensor:
        """Each token's cross-entropy behind the head, (S, B). Pieces begin anywhere, so that where ranks share
        sequences the meta tokens have losses too, of zero."""
        front, labels_SB = self.read_off(labels_BS, context)
        return self.output.losses(normed_sBD, labels_SB, self.spec.lm_head_multiplier, context, front)

    def hits(self, normed_sBD: Tensor, labels_BS: Tensor, context: Context) -> Tensor:
        """Whether the likeliest token is the label, (S, B); of the same positions as `loss`."""
        front, labels_SB = self.read_off(labels_BS, context)
        return self.output.greedy(normed_sBD, self.spec.lm_head_multiplier, context, front) == labels_SB

    def read_off(self, labels_BS: Tensor, context: Context) -> tuple[int, Tensor]:
        """How many positions the head skips, and the labels (S, B) of the others."""
        front = self.spec.meta_tokens
        if context.own_pieces is None:
            return front, labels_BS.t()
        return 0, context.own(F.pad(labels_BS, (front, 0), value=IGNORED)).t()

    @property
    def output(self) -> Vocabulary:
        """The output head; the embedding itself where they are tied."""
        return self.embedding if self.spec.tie_embeddings else self.head
