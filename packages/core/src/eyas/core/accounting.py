"""What a model costs: weights, FLOPs, decoding state; counted from the specification without allocating anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eyas.core.arrangement import pairs_before
from eyas.core.block_config import BlockSpec
from eyas.core.mixer_config import FlopConvention
from eyas.core.model import ModelSpec
from eyas.core.weights import WHOLE, Coordinates, vocabulary_weight


def block_parameters(spec: ModelSpec, block: BlockSpec, at: Coordinates = WHOLE, pair: int = 0) -> int:
    """Weights of one block on a rank, without what a place of it adds: its norms and its mixers. `pair` blocks of two
    branches stand before it."""
    norms = block.input_width(spec.hidden_size) + block.norms_behind * spec.hidden_size
    held = block.places(at, pair).items()
    return norms + sum(spec.layers[name].parameters(spec.hidden_size, place) for name, place in held)


def place_parameters(spec: ModelSpec, block: BlockSpec, at: Coordinates = WHOLE) -> int:
    """Weights that each place of a block adds, on a rank: adapters and projection."""
    adapters = block.adapters(spec.layers, spec.hidden_size).values()
    shapes = [weight.but(shape=weight.local_shape(at)) for declared in adapters for weight in declared.values()]
    return block.options.projection * spec.hidden_size**2 + sum(weight.numel for weight in shapes)


def new_parameters(spec: ModelSpec, at: Coordinates = WHOLE) -> list[int]:
    """Weights of each block on a rank, a shared block's where it stands first."""
    counted: set[str | None] = set()
    found = []
    for block, pair in zip(spec.blocks, pairs_before(spec.blocks), strict=True):
        again = block.options.shared and block.name in counted
        counted.add(block.name)
        body = 0 if again else block_parameters(spec, block, at, pair)
        found.append(body + place_parameters(spec, block, at))
    return found


def vocabulary_rows(spec: ModelSpec, at: Coordinates = WHOLE) -> int:
    """Rows of the embedding that a rank holds, padding included."""
    return vocabulary_weight(spec.vocab_size, spec.hidden_size, at.tensor).local_shape(at)[0]


def parameters(spec: ModelSpec) -> int:
    """Weights of the whole model, padding not counted; without its multi-token-prediction tail, as counts are
    published."""
    rows = spec.vocab_size * (1 if spec.tie_embeddings else 2) + spec.meta_tokens
    blocks = sum(
        (1 if block.options.shared else times) * block_parameters(spec, block) + times * place_parameters(spec, block)
        for block, times in distinct(spec.blocks)
    )
    return (rows + 1) * spec.hidden_size + blocks


def active_parameters(spec: ModelSpec) -> int:
    """Weights of the model without the experts that a token does not choose, in any one place of a shared block. Some
    publish them without the input embedding too, of which a token reads one row."""
    return parameters(spec) - sum(
        (1 if block.options.shared else times)
        * (mixer.parameters(spec.hidden_size) - mixer.active_parameters(spec.hidden_size))
        for block, times in distinct(spec.blocks)
        for mixer in (spec.layers[name] for name in block.layers)
    )


def distinct(blocks: Sequence[BlockSpec]) -> list[tuple[BlockSpec, int]]:
    """The different blocks and how often each stands: a block is its name, or its layers, which then have no options.
    Deep models repeat a few blocks, and counting each again is what would take a table of all models its time."""
    found = {(block.name, block.layers): block for block in blocks}
    times = Counter((block.name, block.layers) for block in blocks)
    return [(block, times[key]) for key, block in found.items()]


def tail_parameters(spec: ModelSpec, at: Coordinates = WHOLE) -> int:
    """Weights of the multi-token-prediction tail on a rank. Each depth that is not a repetition has
    three norms, the matrix that joins embedding and hidden, and its blocks."""
    d = spec.hidden_size
    blocks = sum(block_parameters(spec, block, at) for depth in spec.tail for block in depth)
    return len(spec.tail) * (3 * d + 2 * d * d) + blocks


def forward_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs per token, without the multi-token-prediction tail; causal attention is counted as half the square,
    a multiply-add as two."""
    blocks = sum(n * block_flops(spec, block, sequence_length, convention) for block, n in distinct(spec.blocks))
    return blocks + head_flops(spec)


def head_flops(spec: ModelSpec) -> float:
    """Forward FLOPs per token of the output head. The embedding has none: it looks rows up."""
    return 2.0 * spec.hidden_size * spec.vocab_size


def flops_in_place(spec: ModelSpec, sequence_length: int) -> list[float]:
    """Forward FLOPs per token of each block with what stands before and behind it: the last one's with the head and the
    multi-token-prediction tail. Their sum is the whole model's."""
    flops = [block_flops(spec, block, sequence_length) for block in spec.blocks]
    flops[-1] += head_flops(spec) + tail_flops(spec, sequence_length)
    return flops


def block_flops(spec: ModelSpec, block: BlockSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs of one block per token; the work on meta tokens is divided among the others."""
    d, length = spec.hidden_size, sequence_length + spec.meta_tokens
    mixers = sum(spec.layers[name].flops(d, length, convention) for name in block.layers)
    return (mixers + 2.0 * place_parameters(spec, block)) * (length / sequence_length)


def tail_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Forward FLOPs per token of the multi-token-prediction tail: every depth has its blocks and the head again."""
    d = spec.hidden_size
    blocks = sum(block_flops(spec, block, sequence_length, convention) for depth in spec.depths for block in depth)
    return blocks + len(spec.depths) * (4.0 * d * d + head_flops(spec))


def training_flops(spec: ModelSpec, sequence_length: int, convention: FlopConvention = "exact") -> float:
    """Training FLOPs per token, with the multi-token-prediction tail: the backward pass costs two forward passes;
    recomputation is not counted."""
    return 3 * (forward_flops(spec, sequence_length, convention) + tail_flops(spec, sequence_length, convention))


def state_bytes(spec: ModelSpec, sequence_length: int, element: int = 2) -> int:
    """Decoding state of one sequence after `sequence_length` tokens, with elements of `element` bytes."""
    return sum(n * block_state_bytes(spec, block, sequence_length, element) for block, n in distinct(spec.blocks))


def block_state_bytes(spec: ModelSpec, block: BlockSpec, sequence_length: int, element: int = 2) -> int:
    """Decoding state of one block after `sequence_length` tokens and the meta tokens before them."""
    length = sequence_length + spec.meta_tokens
    return sum(spec.layers[name].state_bytes(spec.hidden_size, length, element) for name in block.layers)
