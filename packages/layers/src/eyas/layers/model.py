"""The language model: embedding, blocks, final norm, head; whole, or as one stage of a pipeline."""

# S sequence, s this rank's part of it, B batch, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from eyas.core.mixer import Placement
from eyas.core.model import ModelSpec
from eyas.layers.block import Block
from eyas.layers.cross_entropy import cross_entropy
from eyas.layers.embedding import Vocabulary
from eyas.layers.initial import initialise
from eyas.layers.mtp import Tail
from eyas.layers.norm import RMSNorm
from eyas.parallel.context import Context
from eyas.parallel.losses import LOSS, Losses

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
        self.blocks = nn.ModuleDict(
            {str(index): Block(spec, spec.pattern.blocks[index], place) for index in self.stage.blocks}
        )
        if self.stage.last:
            self.final_norm = RMSNorm(spec.hidden_size, spec.norm_epsilon, place)
            if not spec.tie_embeddings:
                self.head = Vocabulary(spec, place)
            if spec.pattern.tail:
                self.mtp = Tail(spec, place)

    def initialise(self, seed: int) -> HybridLM:
        """Draws the weights; a layout never changes them."""
        place: Placement = self.context.place
        initialise(self, seed, self.spec.init_std, place.tensor_rank, place.tensor)
        return self

    def forward(
        self,
        tokens_BS: Tensor,
        labels_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
        hidden_sBD: Tensor | None = None,
    ) -> Tensor | Losses:
        """One microbatch through this stage.

        tokens, labels, documents: (B, S); hidden: (s, B, D), what the previous stage sent. Returns hidden (s, B, D) for
        the next stage; from the last one the loss of each token (S, B), or without labels this rank's logits (S, B, V).
        With a multi-token-prediction tail there are several losses.
        """
        context = replace(self.context, documents_SB=None if documents_BS is None else documents_BS.t())
        if self.stage.first:
            hidden_sBD = self.embed(tokens_BS, context)
        assert hidden_sBD is not None
        for block in self.blocks.values():
            hidden_sBD = block(hidden_sBD, context)
        if not self.stage.last:
            return hidden_sBD
        normed_sBD = self.final_norm(hidden_sBD)
        if labels_BS is None:
            return self.logits(normed_sBD, context)
        loss_SB = self.loss(normed_sBD, labels_BS, context)
        if not self.spec.pattern.tail:
            return loss_SB
        further_SB = self.mtp(normed_sBD, tokens_BS, labels_BS, documents_BS, self.embed, self.loss, context)
        total_SB = loss_SB + self.spec.mtp_loss_weight * further_SB
        return Losses(total_SB, {LOSS: loss_SB, MTP_LOSS: further_SB})

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that the last stage reports."""
        return (LOSS, MTP_LOSS) if self.spec.pattern.tail else (LOSS,)

    def initial_state(self, batch: int) -> list[list[object]]:
        """Decoding state of every block, for `batch` sequences."""
        return [block.initial_state(batch) for block in self.blocks.values()]  # type: ignore[operator]

    def step(self, tokens_B: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """One token a sequence: tokens (B,) and the states so far to logits (B, V) and the next states."""
        h = self.embed(tokens_B[:, None], self.context)[0]
        after = []
        for block, state in zip(self.blocks.values(), states, strict=True):
            h, state = block.step(h, state, self.context)  # type: ignore[operator]
            after.append(state)
        return self.predict(h[None], self.context)[0], after

    def prefill(self, tokens_BS: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """Several tokens a sequence: tokens (B, S) and the states so far to hidden (S, B, D) and the next states."""
        h = self.embed(tokens_BS, self.context)
        after = []
        for block, state in zip(self.blocks.values(), states, strict=True):
            h, state = block.prefill(h, state, self.context)  # type: ignore[operator]
            after.append(state)
        return h, after

    def embed(self, tokens_BS: Tensor, context: Context) -> Tensor:
        """Embeddings (s, B, D) of tokens (B, S)."""
        return self.embedding.embed(tokens_BS, self.spec.embedding_multiplier, context)

    def predict(self, hidden_sBD: Tensor, context: Context) -> Tensor:
        """Final norm and head. Returns this rank's logits (S, B, V)."""
        return self.logits(self.final_norm(hidden_sBD), context)

    def logits(self, normed_sBD: Tensor, context: Context) -> Tensor:
        """The head alone, which the multi-token-prediction depths share."""
        return self.output.logits(normed_sBD, self.spec.lm_head_multiplier, context)

    def loss(self, normed_sBD: Tensor, labels_BS: Tensor, context: Context) -> Tensor:
        """Each token's cross-entropy behind the head, (S, B)."""
        return cross_entropy(self.logits(normed_sBD, context), labels_BS.t(), self.output.first, context)

    @property
    def output(self) -> Vocabulary:
        """The output head; the embedding itself where they are tied."""
        return self.embedding if self.spec.tie_embeddings else self.head
