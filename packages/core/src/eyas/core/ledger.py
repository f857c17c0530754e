"""What a transformer layer keeps for its backward pass, operation by operation, as Korthikanti et al. (2022) count it.

Their convention: 16-bit activations, dropout masks of one byte, GELU with four times hidden_size neurons, multi-head
attention that keeps its scores. Ours (`activation_bytes`, `eyas.core.rank_costs`) states what this code keeps; the two
differ because it keeps no scores, no masks of dropout, and what norms read in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Recomputation = Literal["none", "selective", "full"]
"""`selective` recomputes the core of attention, `full` the layer from its input."""


class Split(Enum):
    """What divides a tensor among the tensor-parallel ranks."""

    TENSOR = "heads or neurons"
    SEQUENCE = "the sequence, and nothing without sequence parallelism"


@dataclass(frozen=True)
class Entry:
    """One tensor that is kept, in units of s b h bytes."""

    part: Literal["attention", "mlp", "norms"]
    tensor: str
    bytes: float
    split: Split
    core: bool = False
    """Inside the core of attention: between the projections."""


def transformer_ledger(heads: int, sequence_length: int, hidden_size: int) -> list[Entry]:
    """Every tensor that a layer keeps without recomputation (their section 4.1), (11 + 5 a s / h) + 19 + 4 in all."""
    scores = heads * sequence_length / hidden_size  # a s / h: elements of the scores for each of s b h
    return [
        Entry("norms", "inputs of the two layer norms", 4, Split.SEQUENCE),
        Entry("attention", "input of queries, keys, values", 2, Split.SEQUENCE),
        Entry("attention", "queries and keys", 4, Split.TENSOR),
        Entry("attention", "values", 2, Split.TENSOR),
        Entry("attention", "softmax", 2 * scores, Split.TENSOR, core=True),
        Entry("attention", "mask of the softmax's dropout", scores, Split.TENSOR, core=True),
        Entry("attention", "dropout of the softmax", 2 * scores, Split.TENSOR, core=True),
        Entry("attention", "input of the projection", 2, Split.TENSOR),
        Entry("attention", "mask of the dropout", 1, Split.SEQUENCE),
        Entry("mlp", "input of the first matrix", 2, Split.SEQUENCE),
        Entry("mlp", "input of GELU", 8, Split.TENSOR),
        Entry("mlp", "input of the second matrix", 8, Split.TENSOR),
        Entry("mlp", "mask of the dropout", 1, Split.SEQUENCE),
    ]


def transformer_bytes(
    sequence_length: int,
    microbatch: int,
    hidden_size: int,
    heads: int,
    *,
    tensor: int = 1,
    sequence: bool = False,
    recompute: Recomputation = "none",
) -> float:
    """Bytes that one of `tensor` ranks keeps of a layer: the rows of their table 2."""
    unit = sequence_length * microbatch * hidden_size
    if recompute == "full":
        return 2.0 * unit
    kept = (e for e in transformer_ledger(heads, sequence_length, hidden_size) if not (e.core and recompute != "none"))
    return unit * sum(e.bytes / (tensor if sequence or e.split is Split.TENSOR else 1) for e in kept)
