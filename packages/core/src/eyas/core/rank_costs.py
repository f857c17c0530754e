"""What a rank of a layout holds and keeps: each block's costs, and the bytes of losses and of the tail."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.core.accounting import block_flops, block_state_bytes, new_parameters, vocabulary_rows
from eyas.core.arrangement import pairs_before
from eyas.core.block_config import BlockSpec
from eyas.core.model import ModelSpec
from eyas.core.recompute import FULL, NORM, Recompute, recomputes
from eyas.core.weights import WHOLE, Coordinates


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


def block_costs(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    at: Coordinates = WHOLE,
    sequence: bool = False,
    element: int = 4,
    recompute: Recompute = (),
) -> list[BlockCost]:
    """Every block's costs on a rank where BlockCost says so, with elements of `element` bytes;
    `sequence` says that the ranks split the residual stream along the sequence."""
    shares = at.tensor if sequence else 1
    counts, pairs = new_parameters(spec, at), pairs_before(spec.blocks)
    return [
        BlockCost(
            index=index,
            layers=(block.name,) if block.name else block.layers,
            parameters=counts[index],
            forward_flops=block_flops(spec, block, sequence_length),
            activation_bytes=block_activation_bytes(
                spec, block, sequence_length, microbatch, at, shares, element, recompute, pairs[index]
            ),
            state_bytes=block_state_bytes(spec, block, sequence_length, element),
        )
        for index, block in enumerate(spec.blocks)
    ]


def block_activation_bytes(
    spec: ModelSpec,
    block: BlockSpec,
    sequence_length: int,
    microbatch: int,
    at: Coordinates,
    shares: int,
    element: int,
    recompute: Recompute,
    pair: int = 0,
) -> float:
    """What a rank keeps of a block for the backward pass: its norm's part, its mixers'; what norms behind the branches
    and the projection read; the adapted weights. `shares` ranks split the residual stream. Of what is recomputed only
    the input is kept."""
    d, length = spec.hidden_size, sequence_length + spec.meta_tokens
    tokens, width = length * microbatch, block.input_width(d)
    if recompute == FULL:
        return tokens * width * element / shares
    renormed = recomputes(recompute, NORM)
    kept = tokens * width * element / shares if renormed else norm_bytes(width, tokens, shares, element)
    for name, place in block.places(at, pair).items():
        if not recomputes(recompute, spec.layers[name].role):
            kept += spec.layers[name].activation_bytes(d, length, microbatch, element, place)
    behind = tokens * d * element if renormed else read_bytes(d, tokens, element)
    kept += block.norms_behind * behind / shares
    kept += block.options.projection * tokens * d * element / shares
    for layer, groups in block.options.adapters.items():
        weights = spec.layers[layer].weights(d)
        adapted = [weights[name] for group in groups for name in group.split("+")]
        kept += sum(weight.but(shape=weight.local_shape(at)).numel for weight in adapted) * element
    return kept


def loss_bytes(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    at: Coordinates = WHOLE,
    sequence: bool = False,
    element: int = 4,
    loss_chunk: int | None = None,
) -> float:
    """What the last stage keeps for the backward pass behind its blocks: the final norm's share, this rank's part of
    the softmax in at least float32, and which entry each label chose (an index and two marks). In
    chunks, of the softmax only the normaliser, and the labels."""
    tokens = sequence_length * microbatch
    all_tokens = (sequence_length + spec.meta_tokens) * microbatch
    own = norm_bytes(spec.hidden_size, all_tokens, at.tensor if sequence else 1, element)
    if loss_chunk is not None:
        return own + tokens * (max(element, 4) + 8)
    return own + tokens * (vocabulary_rows(spec, at) * max(element, 4) + 8 + 2)


def tail_bytes(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    at: Coordinates = WHOLE,
    sequence: bool = False,
    element: int = 4,
    recompute: Recompute = (),
    loss_chunk: int | None = None,
) -> float:
    """What the multi-token-prediction tail keeps for the backward pass. Each depth: its tokens, what two norms keep
    beside their results, these side by side, its blocks, and a loss. The hidden that it starts from is kept already
    where the norm need not widen it."""
    d, tokens, wide = spec.hidden_size, sequence_length * microbatch, max(element, 4)
    shares = at.tensor if sequence else 1
    starts_anew = wide if element < wide else 0
    norms = d * (wide + starts_anew + 2 * element) + 2 * wide
    joined = tokens * 8 + tokens * (norms + 2 * d * element) / shares
    loss = loss_bytes(
        spec,
        sequence_length=sequence_length,
        microbatch=microbatch,
        at=at,
        sequence=sequence,
        element=element,
        loss_chunk=loss_chunk,
    )
    blocks = sum(
        block_activation_bytes(spec, block, sequence_length, microbatch, at, shares, element, recompute)
        for depth in spec.depths
        for block in depth
    )
    return len(spec.depths) * (joined + loss) + blocks


def norm_bytes(width: int, tokens: int, shares: int, element: int) -> float:
    """What one of `shares` ranks keeps of a norm for the backward pass, and of its result, which the matrices behind it
    read: where ranks split the sequence, they gather it again."""
    return (read_bytes(width, tokens, element) + tokens * width * element) / shares


def read_bytes(width: int, tokens: int, element: int) -> int:
    """What a norm alone keeps: its input and its statistics in at least float32, and its result before its weight."""
    wide = max(element, 4)
    return tokens * (width * (wide + element) + wide)
