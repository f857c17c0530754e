"""What a rank of a layout holds and keeps: each block's costs, and the bytes of losses and of the tail."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.core.accounting import block_flops, block_state_bytes, new_parameters, vocabulary_rows
from eyas.core.arrangement import pairs_before
from eyas.core.block_config import BlockSpec
from eyas.core.model import ModelSpec
from eyas.core.recompute import FULL, NORM, Recompute, recomputes
from eyas.core.weights import WHOLE, Coordinates


@dataclass(frozen=True, kw_only=True)
class RankShare:
    """The part of a microbatch that a rank works on, and what it keeps of it."""

    sequence_length: int
    """Tokens of a sequence on this rank; where context-parallel ranks share sequences, its pieces."""
    microbatch: int
    """Sequences."""
    at: Coordinates = WHOLE
    """Which part of the weights it holds."""
    sequence: bool = False
    """Tensor-parallel ranks split the residual stream along the sequence."""
    element: int = 4
    """Bytes of a weight and of an activation."""
    recompute: Recompute = ()
    """What the backward pass computes again."""
    loss_chunk: int | None = None
    """Tokens whose logits are made at once; None for all."""

    @property
    def parts(self) -> int:
        """Ranks that split the residual stream."""
        return self.at.tensor if self.sequence else 1


@dataclass(frozen=True)
class BlockCost:
    """One block's costs: on a rank, but for what is said to be over all of them."""

    index: int
    layers: tuple[str, ...]
    """What stands in the pattern: names of layers, or a block's own."""
    parameters: int
    """Those of a shared block are counted where it stands first."""
    forward_flops: float
    """Per token, over all ranks; a model's meta tokens are divided among the others."""
    activation_bytes: float
    """Kept for the backward pass of one microbatch."""
    state_bytes: int
    """Decoding state of one sequence, over all ranks."""


def block_costs(spec: ModelSpec, share: RankShare) -> list[BlockCost]:
    """Every block's costs, on a rank where BlockCost says so."""
    counts, pairs = new_parameters(spec, share.at), pairs_before(spec.blocks)
    return [
        BlockCost(
            index=index,
            layers=(block.name,) if block.name else block.layers,
            parameters=counts[index],
            forward_flops=block_flops(spec, block, share.sequence_length),
            activation_bytes=block_activation_bytes(spec, block, share, pairs[index]),
            state_bytes=block_state_bytes(spec, block, share.sequence_length, share.element),
        )
        for index, block in enumerate(spec.blocks)
    ]


def block_activation_bytes(spec: ModelSpec, block: BlockSpec, share: RankShare, pair: int = 0) -> float:
    """What a rank keeps of a block for the backward pass: its norm's part, its mixers'; what norms behind the branches
    and the projection read; the adapted weights. Of what is recomputed only the input is kept."""
    d, length, element = spec.hidden_size, share.sequence_length + spec.meta_tokens, share.element
    tokens, width, parts = length * share.microbatch, block.input_width(d), share.parts
    if share.recompute == FULL:
        return tokens * width * element / parts
    renormed = recomputes(share.recompute, NORM)
    kept = tokens * width * element / parts if renormed else norm_bytes(width, tokens, parts, element)
    for name, place in block.places(share.at, pair).items():
        if not recomputes(share.recompute, spec.layers[name].role):
            kept += spec.layers[name].activation_bytes(d, length, share.microbatch, element, place)
    behind = tokens * d * element if renormed else read_bytes(d, tokens, element)
    kept += block.norms_behind * behind / parts
    kept += block.options.projection * tokens * d * element / parts
    for layer, groups in block.options.adapters.items():
        weights = spec.layers[layer].weights(d)
        adapted = [weights[name] for group in groups for name in group.split("+")]
        kept += sum(weight.but(shape=weight.local_shape(share.at)).numel for weight in adapted) * element
    return kept


def loss_bytes(spec: ModelSpec, share: RankShare) -> float:
    """What the last stage keeps for the backward pass behind its blocks: the final norm's share, this rank's part of
    the softmax in at least float32, and which entry each label chose (an index and two marks). In
    chunks, of the softmax only the normaliser, and the labels."""
    element, tokens = share.element, share.sequence_length * share.microbatch
    all_tokens = (share.sequence_length + spec.meta_tokens) * share.microbatch
    own = norm_bytes(spec.hidden_size, all_tokens, share.parts, element)
    if share.loss_chunk is not None:
        return own + tokens * (max(element, 4) + 8)
    return own + tokens * (vocabulary_rows(spec, share.at) * max(element, 4) + 8 + 2)


def tail_bytes(spec: ModelSpec, share: RankShare) -> float:
    """What the multi-token-prediction tail keeps for the backward pass. Each depth: its tokens, what two norms keep
    beside their results, these side by side, its blocks, and a loss. The hidden that it starts from is kept already
    where the norm need not widen it."""
    d, tokens, element = spec.hidden_size, share.sequence_length * share.microbatch, share.element
    wide = max(element, 4)
    starts_anew = wide if element < wide else 0
    norms = d * (wide + starts_anew + 2 * element) + 2 * wide
    joined = tokens * 8 + tokens * (norms + 2 * d * element) / share.parts
    blocks = sum(block_activation_bytes(spec, block, share) for depth in spec.depths for block in depth)
    return len(spec.depths) * (joined + loss_bytes(spec, share)) + blocks


def norm_bytes(width: int, tokens: int, parts: int, element: int) -> float:
    """What one of `parts` ranks keeps of a norm for the backward pass, and of its result, which the matrices behind it
    read: where ranks split the sequence, they gather it again."""
    return (read_bytes(width, tokens, element) + tokens * width * element) / parts


def read_bytes(width: int, tokens: int, element: int) -> int:
    """What a norm alone keeps: its input and its statistics in at least float32, and its result before its weight."""
    wide = max(element, 4)
    return tokens * (width * (wide + element) + wide)
