"""Which blocks each pipeline stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from eyas.core.accounting import flops_in_place
from eyas.core.arrangement import allowed_cuts, check_stages
from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec
from eyas.parallel.balance import balanced_cuts
from eyas.parallel.layout import Layout


def stages_of(spec: ModelSpec, layout: Layout, sequence_length: int) -> list[range]:
    """The blocks of each of a model's pipeline stages, in order: by `layout.stages`, by the pattern's `|`, or as evenly
    as possible. The costs that `auto` balances depend on the sequence length. Raises LayoutError where the blocks
    cannot be divided so."""
    blocks, cuts = len(spec.blocks), spec.pattern.cuts
    if layout.stage_count == 1:
        if layout.stages is not None:
            raise LayoutError(
                f"{listed(layout)} divides the blocks over stages, but layout.pipeline=1; set layout.pipeline=2 or "
                "more, or leave layout.stages out"
            )
        return [range(blocks)]
    if cuts and layout.stages is not None:
        raise LayoutError(
            f"{listed(layout)} and the {len(cuts)} cuts of the pattern by | both divide the blocks; leave one out"
        )
    if layout.stage_count > blocks:
        raise LayoutError(
            f"{asked(layout)} cannot share {blocks} blocks; every stage needs one, so ask for {blocks} stages or fewer"
        )
    if isinstance(layout.stages, tuple):
        cuts = listed_cuts(layout, blocks)
    elif layout.stages == "auto":
        cuts = cheapest_cuts(spec, layout, sequence_length)
    elif cuts:
        check_marks(layout, cuts)
    else:
        cuts = even_cuts(blocks, layout.stage_count)
    stages = [range(first, end) for first, end in pairwise((0, *cuts, blocks))]
    check_stages(spec.blocks, stages, spec.layers)
    return stages


def listed_cuts(layout: Layout, blocks: int) -> tuple[int, ...]:
    """Blocks before each cut, as the layout lists the stages."""
    assert isinstance(layout.stages, tuple)
    if len(layout.stages) != layout.stage_count:
        raise LayoutError(
            f"{listed(layout)} has {len(layout.stages)} numbers, but {asked(layout)} need one each; give "
            f"{layout.stage_count} numbers, or change the sizes"
        )
    total = sum(layout.stages)
    if total != blocks:
        raise LayoutError(
            f"{listed(layout)} divides {total} blocks, but the model has {blocks}; make the numbers sum to {blocks}"
        )
    return tuple(sum(layout.stages[:stage]) for stage in range(1, len(layout.stages)))


def check_marks(layout: Layout, cuts: Sequence[int]) -> None:
    """Raises LayoutError where the pattern's `|` make another number of stages than the layout."""
    if len(cuts) != layout.stage_count - 1:
        raise LayoutError(
            f"the pattern's {len(cuts)} pipeline cuts make {len(cuts) + 1} stages, but {asked(layout)} were "
            f"asked for; make layout.pipeline x layout.virtual_pipeline = {len(cuts) + 1}, or cut "
            f"{layout.stage_count - 1} times (model.repeat repeats cuts too)"
        )


def even_cuts(blocks: int, stages: int) -> tuple[int, ...]:
    """Blocks before each cut where stages have numbers of blocks as equal as possible, the first ones one more."""
    share, rest = divmod(blocks, stages)
    return tuple(stage * share + min(stage, rest) for stage in range(1, stages))


def cheapest_cuts(spec: ModelSpec, layout: Layout, sequence_length: int) -> tuple[int, ...]:
    """Blocks before each cut where the most expensive stage costs as little as can be."""
    places = allowed_cuts(spec.blocks, spec.layers)
    if len(places) < layout.stage_count - 1:
        raise LayoutError(
            f"layout.stages=auto: {asked(layout)} need {layout.stage_count - 1} cuts, but the blocks can be cut "
            f"in {len(places)} places, for shared blocks and what blocks read stay on one stage; make layout.pipeline "
            "smaller"
        )
    return balanced_cuts(flops_in_place(spec, sequence_length), layout.stage_count, places)


def listed(layout: Layout) -> str:
    """The option `stages` as a user writes it."""
    return f"layout.stages={list(layout.stages) if isinstance(layout.stages, tuple) else layout.stages}"


def asked(layout: Layout) -> str:
    """How many stages a layout asks for, in its own words."""
    interleaved = layout.virtual_pipeline > 1
    product = f" x layout.virtual_pipeline={layout.virtual_pipeline} = {layout.stage_count}" if interleaved else ""
    return f"layout.pipeline={layout.pipeline}{product} stages"
