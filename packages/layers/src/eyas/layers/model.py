"""The language model: embedding, blocks, final norm, head; whole, or as one stage of a pipeline."""

# S sequence, s this rank's part of it, B batch, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from eyas.core.block_config import BlockSpec
from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement, empty_parameter
from eyas.core.model import ModelSpec
from eyas.core.weights import replicated
from eyas.layers.block import Block, Branches
from eyas.layers.cross_entropy import cross_entropy
from eyas.layers.embedding import Vocabulary
from eyas.layers.initial import initialise
from eyas.layers.norm import RMSNorm
from eyas.layers.shared import SharedUse
from eyas.layers.streams import Streams
from eyas.parallel.context import Context


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
        if self.stage.first or (self.stage.last and spec.tie_embeddings):
            self.embedding = Vocabulary(spec, place)
        if self.stage.first and spec.meta_tokens:
            self.meta_tokens = empty_parameter(replicated(spec.meta_tokens, spec.hidden_size), place)
        blocks = {index: spec.blocks[index] for index in self.stage.blocks}
        shared = {str(block.name): block for block in blocks.values() if block.options.shared}
        self.shared = nn.ModuleDict({name: Branches(spec, block, place) for name, block in shared.items()})
        self.blocks = nn.ModuleDict({str(index): self.placed(block) for index, block in blocks.items()})
        if self.stage.last:
            self.final_norm = RMSNorm(spec.hidden_size, spec.norm_epsilon, place)
            if not spec.tie_embeddings:
                self.head = Vocabulary(spec, place)

    def placed(self, block: BlockSpec) -> Block | SharedUse:
        """The module of one block; its weights stand under `shared` where other places use them too."""
        place = self.context.place
        if not block.options.shared:
            return Block(self.spec, block, place)
        return SharedUse(self.spec, block, place, self.shared[str(block.name)])  # type: ignore[arg-type]

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
    ) -> Tensor:
        """One microbatch through this stage.

        tokens, labels, documents: (B, S); hidden: (s, B, D), what the previous stage sent. Returns hidden (s, B, D) for
        the next stage; from the last one the loss of each token (S, B), or without labels this rank's logits (S, B, V).
        """
        if documents_BS is not None and self.spec.meta_tokens:
            raise ConfigError("meta tokens stand in front of a row, not of each of its packed documents")
        context = replace(self.context, documents_SB=None if documents_BS is None else documents_BS.t())
        if self.stage.first:
            hidden_sBD = self.embed(tokens_BS, context)
        assert hidden_sBD is not None
        streams = Streams.begin(hidden_sBD)
        for block in self.placed_blocks():
            streams = streams.write(block.options, block.output(streams.read(block.options), context))
        if not self.stage.last:
            return streams.residual
        logits_SBV = self.predict(streams.residual, context)
        if labels_BS is None:
            return logits_SBV
        return cross_entropy(logits_SBV, labels_BS.t(), self.output.first, context)

    def initial_state(self, batch: int) -> list[list[object]]:
        """Decoding state of every block before the first token, for `batch` sequences."""
        states = [block.initial_state(batch) for block in self.placed_blocks()]
        for meta_D in self.meta_tokens if self.spec.meta_tokens else ():
            _, states = self.advance(meta_D.expand(batch, -1) * self.spec.embedding_multiplier, states)
        return states

    def step(self, tokens_B: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """One token a sequence: tokens (B,) and the states so far to logits (B, V) and the next states."""
        h_BD = self.embedding.embed(tokens_B[:, None], self.spec.embedding_multiplier, self.context)[0]
        h_BD, states = self.advance(h_BD, states)
        return self.output.logits(self.final_norm(h_BD[None]), self.spec.lm_head_multiplier, self.context)[0], states

    def advance(self, h_BD: Tensor, states: list[list[object]]) -> tuple[Tensor, list[list[object]]]:
        """One position through all blocks: its embedding (B, D) and the states so far to the residual stream behind the
        last block (B, D) and the next states."""
        streams, after = Streams.begin(h_BD), []
        for block, state in zip(self.placed_blocks(), states, strict=True):
            output_BD, state = block.step_output(streams.read(block.options), state, self.context)
            streams = streams.write(block.options, output_BD)
            after.append(state)
        return streams.residual, after

    def embed(self, tokens_BS: Tensor, context: Context) -> Tensor:
        """Embeddings of tokens (B, S) behind the meta tokens. Returns (s, B, D)."""
        front = self.meta_tokens if self.spec.meta_tokens else None
        return self.embedding.embed(tokens_BS, self.spec.embedding_multiplier, context, front)

    def placed_blocks(self) -> list[Block | SharedUse]:
        """This stage's blocks in order."""
        return list(self.blocks.values())  # type: ignore[arg-type]

    def predict(self, hidden_sBD: Tensor, context: Context) -> Tensor:
        """Final norm and head, for the tokens behind the meta tokens. Returns this rank's logits (S, B, V)."""
        normed_sBD = self.final_norm(hidden_sBD)
        return self.output.logits(normed_sBD, self.spec.lm_head_multiplier, context, skip=self.spec.meta_tokens)

    @property
    def output(self) -> Vocabulary:
        """The output head; the embedding itself where they are tied."""
        return self.embedding if self.spec.tie_embeddings else self.head
