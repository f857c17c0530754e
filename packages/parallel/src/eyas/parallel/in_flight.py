"""How much a pipeline process keeps for the backward pass at once, by the order in which Megatron-Core's schedules work
(pipeline_parallel/schedules.py, `get_pp_rank_microbatches` and `get_schedule_table`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eyas.parallel.layout import Layout


def most_kept(layout: Layout, pipeline_rank: int, microbatches: int, kept: Sequence[float]) -> float:
    """The most that process `pipeline_rank` of a pipeline keeps during a step, where one microbatch of each of its
    stages keeps `kept`."""
    now = most = 0.0
    for stage, forward in passes(layout, pipeline_rank, microbatches):
        now += kept[stage] if forward else -kept[stage]
        most = max(most, now)
    return most


def passes(layout: Layout, pipeline_rank: int, microbatches: int) -> Iterator[tuple[int, bool]]:
    """What the process does, in order: which of its own stages, and whether forward. First some microbatches forward,
    then one forward and one backward in turn (1F1B), at last the rest backward."""
    stages, group = layout.virtual_pipeline, layout.pipeline
    behind = layout.pipeline - pipeline_rank - 1
    total = microbatches * stages
    ahead = min(total, behind if stages == 1 else 2 * behind + (stages - 1) * group)
    turns = [turn // group % stages for turn in range(total)]
    for turn in range(total + ahead):
        if turn < total:
            yield turns[turn], True
        if turn >= ahead:
            yield stages - 1 - turns[turn - ahead], False
