"""`eyas train --dry-run`: what would run and what it would cost, without allocating it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from eyas.core.accounting import (
    flops_in_place,
    parameters,
    state_bytes,
    tail_flops,
    tail_parameters,
    training_flops,
    vocabulary_rows,
)
from eyas.core.arrangement import pairs_before
from eyas.core.block_config import BlockSpec
from eyas.core.counted import counted
from eyas.core.model import ModelSpec
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, tail_bytes
from eyas.core.recompute import FULL, recomputes
from eyas.core.weights import Coordinates
from eyas.experiments.data_check import check_data
from eyas.experiments.run_config import RunConfig
from eyas.experiments.trackers import asked_for, check_installed
from eyas.parallel.in_flight import most_kept
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of

ELEMENT = {"float32": 4, "float64": 8, "bfloat16": 2}
FORWARD = "forward MFLOP / token"
FOLDED = 16
"""Blocks from which on equal blocks share a row."""


def print_dry_run(run: RunConfig) -> None:
    """Checks a run, and prints a row for each block and a row for each rank."""
    check(run)
    spec, layout, length = run.spec, run.layout, run.data.sequence_length
    state = state_bytes(spec, length, ELEMENT[run.trainer.precision])
    console = Console(highlight=False)
    console.print(
        f"{spec.name}: {parameters(spec):,} parameters, {training_flops(spec, length) / 1e6:,.3f} MFLOP per training "
        f"token at {length} tokens, {state:,} bytes of decoding state per sequence",
        soft_wrap=True,
    )
    console.print(f"pattern: {spec.pattern}", soft_wrap=True, markup=False)
    microbatches = layout.microbatches(run.trainer.global_batch, run.trainer.microbatch)
    ramp = run.trainer.batch_ramp
    growth = f", from {ramp.start} by {ramp.increment} in the first {counted(ramp.steps, 'step')}" if ramp else ""
    console.print(
        f"{layout}: {counted(layout.processes, 'process', 'processes')}; {counted(run.trainer.max_steps, 'step')} of "
        f"{counted(run.trainer.global_batch, 'sequence')} in {counted(microbatches, 'microbatch', 'microbatches')} per "
        f"replica{growth}",
        soft_wrap=True,
    )
    console.print(blocks_table(run, spec))
    console.print(ranks_table(run, spec))


def check(run: RunConfig) -> None:
    """Refuses what training would: packages that are missing, and text as far as it is known before it is prepared."""
    check_installed(asked_for(run.logger))
    if run.drawn_task is None:
        check_data(run.data)


def dry_run_line(run: RunConfig) -> str:
    """Checks a run, and says of it what tells the jobs of a sweep apart."""
    check(run)
    spec, layout, length = run.spec, run.layout, run.data.sequence_length
    tokens = run.trainer.batches.before(run.trainer.max_steps) * length
    most = max(held.weights * bytes_per_weight(run) + held.kept for held in held_by_ranks(run, spec))
    return (
        f"{parameters(spec):,} parameters, {training_flops(spec, length) / 1e6:,.3f} MFLOP per training token, "
        f"{tokens:,} tokens in {counted(run.trainer.max_steps, 'step')}, "
        f"{counted(layout.processes, 'process', 'processes')} of up to {most / 2**20:,.1f} MiB"
    )


def blocks_table(run: RunConfig, spec: ModelSpec) -> Table:
    """Costs of each block over all ranks; equal blocks of a long model share a row. The multi-token-prediction tail has
    one, its heads and losses included."""
    table = Table(title="Blocks", title_justify="left")
    for heading in ("block", "layers", "parameters", FORWARD, "activations MiB", "state KiB"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    length = run.data.sequence_length
    share = RankShare(
        sequence_length=length,
        microbatch=run.trainer.microbatch,
        element=ELEMENT[run.trainer.precision],
        recompute=run.layout.recompute,
        loss_chunk=run.layout.loss_chunk,
    )
    costs = block_costs(spec, share)
    rows: dict[tuple[str, ...], list[int]] = {}
    for cost in costs:
        key = (*cost.layers, str(cost.parameters if len(costs) > FOLDED else cost.index))
        rows.setdefault(key, []).append(cost.index)
    for indices in rows.values():
        cost = costs[indices[0]]
        table.add_row(
            str(indices[0]) if len(indices) == 1 else f"{len(indices)} x",
            " + ".join(cost.layers),
            f"{cost.parameters:,}",
            f"{cost.forward_flops / 1e6:,.3f}",
            f"{cost.activation_bytes / 2**20:,.1f}",
            f"{cost.state_bytes / 2**10:,.1f}",
        )
    if spec.pattern.tail:
        table.add_row(
            "tail",
            " / ".join(", ".join(" + ".join(block) for block in depth) for depth in spec.pattern.tail),
            f"{tail_parameters(spec):,}",
            f"{tail_flops(spec, length) / 1e6:,.3f}",
            f"{tail_bytes(spec, share) / 2**20:,.1f}",
        )
    return table


def ranks_table(run: RunConfig, spec: ModelSpec) -> Table:
    """The stages of each pipeline process, one below the other, and what its ranks hold, which are alike but for the
    data of replicas and context ranks; and where branches lie on halves of the ranks, for the half."""
    layout = run.layout
    kinds = halves(layout)
    cut = stages_of(spec, layout, run.data.sequence_length)
    alike = layout.processes // layout.pipeline // len(kinds)
    table = Table(title=f"Ranks ({alike} of each kind)", title_justify="left")
    headings = ["stage", "blocks", "parameters", FORWARD, "weights and optimizer MiB", "activations MiB"]
    for heading in headings + ["half"] * (len(kinds) > 1):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    flops = flops_in_place(spec, run.data.sequence_length)
    for held in held_by_ranks(run, spec):
        table.add_row(
            "\n".join(map(str, held.stages)),
            "\n".join(f"{cut[stage].start}-{cut[stage].stop - 1}" for stage in held.stages),
            f"{held.weights:,}",
            "\n".join(f"{sum(flops[index] for index in cut[stage]) / 1e6:,.3f}" for stage in held.stages),
            f"{held.weights * bytes_per_weight(run) / 2**20:,.1f}",
            f"{held.kept / 2**20:,.1f}",
            *[held.half] * (len(kinds) > 1),
        )
    return table


class HeldByRank(NamedTuple):
    """What a rank of one kind holds."""

    stages: Sequence[int]
    half: str
    weights: int
    kept: float
    """The most bytes of activations."""


def held_by_ranks(run: RunConfig, spec: ModelSpec) -> Iterator[HeldByRank]:
    """Each kind of rank: of every pipeline process, and of every half of the ranks that branches lie on."""
    layout = run.layout
    cut = stages_of(spec, layout, run.data.sequence_length)
    microbatches = layout.microbatches(run.trainer.global_batch, run.trainer.microbatch)
    held = {half: stage_costs(run, spec, at, cut) for half, at in halves(layout).items()}
    for process in range(layout.pipeline):
        stages = layout.stages_of(process)
        for half, costs in held.items():
            weights = sum(costs[stage][0] for stage in stages)
            kept = most_kept(layout, process, microbatches, [costs[stage][1] for stage in stages])
            yield HeldByRank(stages, half, weights, kept)


def halves(layout: Layout) -> dict[str, Coordinates]:
    """Where a rank of each kind stands: one kind, or one in each half of the ranks that branches lie on."""
    first = layout.coordinates
    if layout.branches == "together":
        return {"1st": first}
    return {"1st": first, "2nd": replace(first, tensor_rank=layout.tensor // 2)}


def stage_costs(run: RunConfig, spec: ModelSpec, at: Coordinates, cut: Sequence[range]) -> list[tuple[int, float]]:
    """The weights of each stage on a rank that stands there, and what it keeps of a microbatch, in bytes."""
    layout = run.layout
    share = RankShare(
        sequence_length=(run.data.sequence_length + spec.meta_tokens) // layout.context - spec.meta_tokens,
        microbatch=run.trainer.microbatch,
        at=at,
        sequence=layout.sequence,
        element=ELEMENT[run.trainer.precision],
        recompute=layout.recompute,
        loss_chunk=layout.loss_chunk,
    )
    costs, pairs = block_costs(spec, share), pairs_before(spec.blocks)
    kept = [
        cost.activation_bytes + gathered_bytes(run, spec, block, at, pair)
        for cost, block, pair in zip(costs, spec.blocks, pairs, strict=True)
    ]
    behind = loss_bytes(spec, share) + tail_bytes(spec, share)
    behind += sum(gathered_bytes(run, spec, block, at) for depth in spec.depths for block in depth)
    return [
        (
            stage_parameters(spec, layout, stage, at) + sum(costs[index].parameters for index in blocks),
            sum(kept[index] for index in blocks) + (behind if stage == len(cut) - 1 else 0),
        )
        for stage, blocks in enumerate(cut)
    ]


def stage_parameters(spec: ModelSpec, layout: Layout, stage: int, at: Coordinates) -> int:
    """Weights of a stage's rank outside its blocks: embedding, meta tokens, final norm, head, multi-token-prediction
    tail."""
    matrix = vocabulary_rows(spec, at) * spec.hidden_size
    first, last = stage == 0, stage == layout.stage_count - 1
    embedding = first or (last and spec.embeds_twice)
    head = last and not spec.tie_embeddings
    behind = spec.hidden_size + tail_parameters(spec, at) if last else 0
    meta = spec.meta_tokens * spec.hidden_size if first else 0
    return matrix * (int(embedding) + int(head)) + meta + behind


def gathered_bytes(run: RunConfig, spec: ModelSpec, block: BlockSpec, at: Coordinates, pair: int = 0) -> float:
    """What a rank keeps of other context ranks' tokens for a block, behind `pair` blocks of two branches; exchanged
    heads take the place of its own, and what is recomputed keeps nothing."""
    layout, element = run.layout, ELEMENT[run.trainer.precision]
    if layout.context_exchange != "gather" or layout.recompute == FULL:
        return 0.0
    others = (run.data.sequence_length + spec.meta_tokens) * run.trainer.microbatch * (layout.context - 1)
    return sum(
        spec.layers[name].gathered_bytes(others // layout.context, element, place)
        for name, place in block.places(at, pair).items()
        if not recomputes(layout.recompute, spec.layers[name].role)
    )


def bytes_per_weight(run: RunConfig) -> float:
    """Weight, gradient, those of Adam's two moments that are not in the host's memory, and float32 master weights where
    the weight is smaller; the optimizer's part divided among the replicas with the distributed optimizer."""
    layout, element = run.layout, ELEMENT[run.trainer.precision]
    wide = max(element, 4)
    gradient = max(element, ELEMENT[run.trainer.gradients])
    optimizer = 2 * wide * (1 - run.optimizer.cpu_offload) + (4 if element < 4 else 0)
    return (
        element + gradient + (optimizer / (layout.data * layout.context) if layout.distributed_optimizer else optimizer)
    )
