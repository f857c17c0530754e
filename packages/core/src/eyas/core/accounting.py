"""What a model costs: weights, FLOPs, decoding state; counted from the specification without allocating anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eyas.core.mixer_config import FlopConvention
from eyas.core.model import ModelSpec
from eyas.core.weights import vocabulary_weight


@dataclass(frozen=True)
class BlockCost:
    """One block's costs: on one of `tensor` ranks, but for what is said to be over all of them."""

    index: int
    layers: tuple[str, ...]
    parameters: int
    forward_flops: float
    """Per token, over all ranks."""
    activation_bytes: float
    """Kept for the backward pass of one microbatch."""
    state_bytes: int
    """Decoding state of one sequence, over all ranks."""


def block_parameters(spec: ModelSpec, layers: Iterable[str], tensor: int = 1) -> int:
    """Weights of one block on one of `tensor` ranks: its norm and its mixers."""
    return spec.hidden_size + sum(spec.layers[name].parameters(spec.hidden_size, tensor) for name in layers)


def vocabulary_rows(spec: ModelSpec, tensor: int = 1) -> int:
    """Rows of the embedding that one of `tensor` ranks holds, padding included."""
    return vocabulary_weight(spec.vocab_size, spec.hidden_size, tensor).local_shape(tensor)[0]


def parameters(spec: ModelSpec) -> int:
    """Weights of the whole model, padding not counted."""
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)
    return embeddings + spec.hidden_size + sum(block_parameters(spec, block) for block in spec.pattern.blocks)


def active_parameters(spec: ModelSpec) -> int:
    """Weights that one token uses: of a mixture, the chosen experts' alone; without the input embedding, of which a
    token reads a row, unless the head shares it."""
    d = spec.hidden_size
    mixers = [spec.layers[name] for block in spec.pattern.blocks for name in block]
    return spec.vocab_size * d + d + sum(mixer.active_parameters(d) for mixer in mixers) + d * len(spec.pattern.blocks)


def forward_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs per token; causal attention is counted as half the square, a multiply-add as two."""
    d = spec.hidden_size
    blocks = sum(
        spec.layers[name].flops(d, sequence_length, convention) for block in spec.pattern.blocks for name in block
    )
    return blocks + 2.0 * d * spec.vocab_size


def training_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Training FLOPs per token: the backward pass costs two forward passes; recomputation is not counted."""
    return 3 * forward_flops(spec, sequence_length, convention)


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
    """Every block's costs on one of `tensor` ranks where BlockCost says so, with elements of `element` bytes;
    `sequence` says that the ranks split the residual stream along the sequence."""
    d = spec.hidden_size
    own = norm_bytes(d, sequence_length * microbatch, tensor if sequence else 1, element)
    costs = []
    for index, block in enumerate(spec.pattern.blocks):
        mixers = [spec.layers[name] for name in block]
        kept = sum(mixer.activation_bytes(d, sequence_length, microbatch, element, tensor) for mixer in mixers)
        costs.append(
            BlockCost(
                index=index,
                layers=block,
                parameters=block_parameters(spec, block, tensor),
                forward_flops=sum(mixer.flops(d, sequence_length) for mixer in mixers),
                activation_bytes=own + kept,
                state_bytes=sum(mixer.state_bytes(d, sequence_length, element) for mixer in mixers),
            )
        )
    return costs


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


def norm_bytes(hidden_size: int, tokens: int, shares: int, element: int) -> float:
    """What a norm keeps for the backward pass: its input and its statistics in at least float32 and its result before
    its weight, all of which `shares` ranks may share; and the whole result, which the matrices behind it read."""
    wide = max(element, 4)
    return tokens * (hidden_size * (wide + element) + wide) / shares + tokens * hidden_size * element
