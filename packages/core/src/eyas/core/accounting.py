"""What a model costs: weights, FLOPs, decoding state; counted from the specification without allocating anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eyas.core.mixer_config import FlopConvention
from eyas.core.model import ModelSpec


@dataclass(frozen=True)
class BlockCost:
    """One block's costs on one of `tensor` ranks."""

    index: int
    layers: tuple[str, ...]
    parameters: int
    forward_flops: float
    """Per token, over all ranks."""
    activation_bytes: float
    """Kept for the backward pass of one microbatch."""
    state_bytes: int
    """Decoding state of one sequence."""


def block_parameters(spec: ModelSpec, layers: Iterable[str], tensor: int = 1) -> int:
    """Weights of one block on one of `tensor` ranks: its norm and its mixers."""
    return spec.hidden_size + sum(spec.layers[name].parameters(spec.hidden_size, tensor) for name in layers)


def vocabulary_rows(spec: ModelSpec, tensor: int = 1) -> int:
    """Rows of the embedding that one of `tensor` ranks holds, padding included."""
    return -(-spec.vocab_size // tensor)


def parameters(spec: ModelSpec) -> int:
    """Weights of the whole model, padding not counted; without its multi-token-prediction tail, as counts are
    published."""
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)
    return embeddings + spec.hidden_size + sum(block_parameters(spec, block) for block in spec.pattern.blocks)


def tail_parameters(spec: ModelSpec, tensor: int = 1) -> int:
    """Weights of the multi-token-prediction tail on one of `tensor` ranks. Each depth that is not a repetition has
    three norms, the matrix that joins embedding and hidden, and its blocks."""
    d = spec.hidden_size
    blocks = sum(block_parameters(spec, block, tensor) for depth in spec.tail for block in depth)
    return len(spec.tail) * (3 * d + 2 * d * d) + blocks


def forward_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs per token, without the multi-token-prediction tail; causal attention is counted as half the square,
    a multiply-add as two."""
    d = spec.hidden_size
    blocks = sum(
        spec.layers[name].flops(d, sequence_length, convention) for block in spec.pattern.blocks for name in block
    )
    return blocks + 2.0 * d * spec.vocab_size


def tail_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs per token of the multi-token-prediction tail: every depth has its blocks and the head again."""
    d = spec.hidden_size
    depths = spec.pattern.tail
    blocks = sum(
        spec.layers[name].flops(d, sequence_length, convention) for depth in depths for block in depth for name in block
    )
    return blocks + len(depths) * (4.0 * d * d + 2.0 * d * spec.vocab_size)


def training_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Training FLOPs per token, with the multi-token-prediction tail: the backward pass costs two forward passes;
    recomputation is not counted."""
    return 3 * (forward_flops(spec, sequence_length, convention) + tail_flops(spec, sequence_length, convention))


def state_bytes(spec: ModelSpec, sequence_length: int, element: int = 2) -> int:
    """Decoding state of one sequence after `sequence_length` tokens, with elements of `element` bytes."""
    return sum(
        spec.layers[name].state_bytes(spec.hidden_size, sequence_length, element)
        for block in spec.pattern.blocks
        for name in block
    )


def block_costs(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    tensor: int = 1,
    sequence: bool = False,
    element: int = 4,
) -> list[BlockCost]:
    """Every block's costs on one of `tensor` ranks, with elements of `element` bytes; `sequence` says that the ranks
    split the residual stream along the sequence."""
    sizes = (sequence_length, microbatch, tensor, sequence, element)
    return [block_cost(spec, index, block, *sizes) for index, block in enumerate(spec.pattern.blocks)]


def block_cost(
    spec: ModelSpec,
    index: int,
    layers: tuple[str, ...],
    sequence_length: int,
    microbatch: int,
    tensor: int,
    sequence: bool,
    element: int,
) -> BlockCost:
    """One block's costs; the options are those of `block_costs`."""
    d = spec.hidden_size
    mixers = [spec.layers[name] for name in layers]
    own = norm_bytes(d, sequence_length * microbatch, tensor if sequence else 1, element)
    return BlockCost(
        index=index,
        layers=layers,
        parameters=block_parameters(spec, layers, tensor),
        forward_flops=sum(mixer.flops(d, sequence_length) for mixer in mixers),
        activation_bytes=own
        + sum(mixer.activation_bytes(d, sequence_length, microbatch, element, tensor) for mixer in mixers),
        state_bytes=sum(mixer.state_bytes(d, sequence_length, element) for mixer in mixers),
    )


def loss_bytes(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    tensor: int = 1,
    sequence: bool = False,
    element: int = 4,
) -> float:
    """What the last stage keeps for the backward pass behind its blocks: the final norm's share, this rank's part of
    the softmax in at least float32, and which entry each label chose (an index and two marks)."""
    tokens = sequence_length * microbatch
    own = norm_bytes(spec.hidden_size, tokens, tensor if sequence else 1, element)
    return own + tokens * (vocabulary_rows(spec, tensor) * max(element, 4) + 8 + 2)


def tail_bytes(
    spec: ModelSpec,
    *,
    sequence_length: int,
    microbatch: int,
    tensor: int = 1,
    sequence: bool = False,
    element: int = 4,
) -> float:
    """What the multi-token-prediction tail keeps for the backward pass. Each depth: its tokens, what two norms keep
    beside their results, these side by side, its blocks, and a loss. The hidden that it starts from is kept already
    where the norm need not widen it and no gathered copy is what the head reads."""
    d, tokens, wide = spec.hidden_size, sequence_length * microbatch, max(element, 4)
    shares = tensor if sequence else 1
    starts_anew = element < wide or shares > 1
    norms = d * (wide + starts_anew * wide + 2 * element) + 2 * wide
    joined = tokens * 8 + tokens * (norms + 2 * d * element) / shares
    loss = loss_bytes(
        spec, sequence_length=sequence_length, microbatch=microbatch, tensor=tensor, sequence=sequence, element=element
    )
    blocks = sum(
        block_cost(spec, 0, block, sequence_length, microbatch, tensor, sequence, element).activation_bytes
        for depth in spec.pattern.tail
        for block in depth
    )
    return len(spec.pattern.tail) * (joined + loss) + blocks


def norm_bytes(hidden_size: int, tokens: int, shares: int, element: int) -> float:
    """What a norm keeps for the backward pass: its input and its statistics in at least float32 and its result before
    its weight, all of which `shares` ranks may share; and the whole result, which the matrices behind it read."""
    wide = max(element, 4)
    return tokens * (hidden_size * (wide + element) + wide) / shares + tokens * hidden_size * element
