"""Which blocks each pipeline stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from eyas.core.arrangement import check_stages
from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec


def stages_of(spec: ModelSpec, stages: int) -> list[range]:
    """The blocks of each of a model's pipeline stages, in order. Raises LayoutError where they cannot be cut so."""
    cut = split(len(spec.blocks), stages, spec.pattern.cuts)
    check_stages(spec.blocks, cut, spec.layers)
    return cut


def split(blocks: int, stages: int, cuts: Sequence[int] = ()) -> list[range]:
    """The blocks of each stage, in order. `cuts` are the numbers of blocks before each cut, as a pattern's `|` gives
    them, and mean nothing to a single stage; without cuts the blocks are divided as evenly as possible, and the first
    stages take one more each."""
    if cuts and stages > 1:
        return _cut(blocks, stages, cuts)
    if stages > blocks:
        raise LayoutError(
            f"layout.pipeline={stages} stages cannot share {blocks} blocks; every stage needs one, "
            f"so set layout.pipeline to {blocks} or less"
        )
    share, rest = divmod(blocks, stages)
    bounds = [stage * share + min(stage, rest) for stage in range(stages + 1)]
    return [range(first, end) for first, end in pairwise(bounds)]


def _cut(blocks: int, stages: int, cuts: Sequence[int]) -> list[range]:
    if len(cuts) != stages - 1:
        raise LayoutError(
            f"the pattern's {len(cuts)} pipeline cuts make {len(cuts) + 1} stages, but layout.pipeline={stages}; "
            f"set layout.pipeline={len(cuts) + 1}, or cut {stages - 1} times"
        )
    bounds = [0, *cuts, blocks]
    for stage, (first, end) in enumerate(pairwise(bounds)):
        if first >= end:
            raise LayoutError(
                f"pipeline stage {stage} has no blocks (cuts after {', '.join(map(str, cuts))} of {blocks} blocks); "
                "place at least one block between two cuts and at both ends"
            )
    return [range(first, end) for first, end in pairwise(bounds)]
