"""`eyas train --dry-run`: what would run and what it would cost, without allocating it."""

from __future__ import annotations

from typing import Any

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
from eyas.core.rank_costs import block_costs, loss_bytes, tail_bytes
from eyas.core.recompute import FULL, recomputes
from eyas.experiments.run_config import RunConfig
from eyas.parallel.in_flight import most_kept
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of

ELEMENT = {"float32": 4, "float64": 8, "bfloat16": 2}
FOLDED = 16
"""Blocks from which on equal blocks share a row."""


def print_dry_run(run: RunConfig) -> None:
    """Prints a row for each block and a row for each rank."""
    spec, layout, length = run.spec, run.layout, run.data.sequence_length
    state = state_bytes(spec, length, ELEMENT[run.trainer.precision])
    console = Console(highlight=False)
    console.print(
        f"{spec.name}: {parameters(spec):,} parameters, {training_flops(spec, length) / 1e9:,.3f} GFLOP per training "
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


def blocks_table(run: RunConfig, spec: ModelSpec) -> Table:
    """Costs of each block over all ranks; equal blocks of a long model share a row. The multi-token-prediction tail has
    one, its heads and losses included."""
    table = Table(title="Blocks", title_justify="left")
    for heading in ("block", "layers", "parameters", "MFLOP / token", "activations MiB", "state KiB"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    length = run.data.sequence_length
    sizes: dict[str, Any] = {
        "sequence_length": length,
        "microbatch": run.trainer.microbatch,
        "element": ELEMENT[run.trainer.precision],
        "recompute": run.layout.recompute,
    }
    costs = block_costs(spec, **sizes)
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
            f"{tail_bytes(spec, **sizes, loss_chunk=run.layout.loss_chunk) / 2**20:,.1f}",
        )
    return table


def ranks_table(run: RunConfig, spec: ModelSpec) -> Table:
    """The stages of each pipeline process, one below the other, and what its ranks hold, which are alike but for the
    data of replicas and context ranks."""
    layout, element, length = run.layout, ELEMENT[run.trainer.precision], run.data.sequence_length
    cut = stages_of(spec, layout, length)
    table = Table(title=f"Ranks ({layout.processes // layout.pipeline} of each kind)", title_justify="left")
    for heading in ("stage", "blocks", "parameters", "MFLOP / token", "weights and optimizer MiB", "activations MiB"):
        table.add_column(heading, justify="right")
    sizes: dict[str, Any] = {
        "sequence_length": (length + spec.meta_tokens) // layout.context - spec.meta_tokens,
        "microbatch": run.trainer.microbatch,
        "at": layout.coordinates,
        "sequence": layout.sequence,
        "element": element,
    }
    chunk, recompute = layout.loss_chunk, layout.recompute
    costs, flops = block_costs(spec, **sizes, recompute=recompute), flops_in_place(spec, length)
    loss = loss_bytes(spec, **sizes, loss_chunk=chunk)
    tail = tail_bytes(spec, **sizes, recompute=recompute, loss_chunk=chunk)
    pairs = zip(spec.blocks, pairs_before(spec.blocks), strict=True)
    gathered = [gathered_bytes(run, spec, block, pair) for block, pair in pairs]
    kept = [sum(costs[index].activation_bytes + gathered[index] for index in blocks) for blocks in cut]
    kept[-1] += loss + tail + sum(gathered_bytes(run, spec, block) for depth in spec.depths for block in depth)
    microbatches = layout.microbatches(run.trainer.global_batch, run.trainer.microbatch)
    for process in range(layout.pipeline):
        stages = layout.stages_of(process)
        weights = sum(
            stage_parameters(spec, layout, stage) + sum(costs[index].parameters for index in cut[stage])
            for stage in stages
        )
        most = most_kept(layout, process, microbatches, [kept[stage] for stage in stages])
        table.add_row(
            "\n".join(map(str, stages)),
            "\n".join(f"{cut[stage].start}-{cut[stage].stop - 1}" for stage in stages),
            f"{weights:,}",
            "\n".join(f"{sum(flops[index] for index in cut[stage]) / 1e6:,.3f}" for stage in stages),
            f"{weights * bytes_per_weight(run) / 2**20:,.1f}",
            f"{most / 2**20:,.1f}",
        )
    return table


def stage_parameters(spec: ModelSpec, layout: Layout, stage: int) -> int:
    """Weights of a stage's rank outside its blocks: embedding, meta tokens, final norm, head, multi-token-prediction
    tail."""
    matrix = vocabulary_rows(spec, layout.coordinates) * spec.hidden_size
    first, last = stage == 0, stage == layout.stage_count - 1
    embedding = first or (last and spec.embeds_twice)
    head = last and not spec.tie_embeddings
    behind = spec.hidden_size + tail_parameters(spec, layout.coordinates) if last else 0
    meta = spec.meta_tokens * spec.hidden_size if first else 0
    return matrix * (int(embedding) + int(head)) + meta + behind


def gathered_bytes(run: RunConfig, spec: ModelSpec, block: BlockSpec, pair: int = 0) -> float:
    """What a rank keeps of other context ranks' tokens for a block, behind `pair` blocks of two branches; exchanged
    heads take the place of its own, and what is recomputed keeps nothing."""
    layout, element = run.layout, ELEMENT[run.trainer.precision]
    if layout.context_exchange != "gather" or layout.recompute == FULL:
        return 0.0
    others = (run.data.sequence_length + spec.meta_tokens) * run.trainer.microbatch * (layout.context - 1)
    return sum(
        spec.layers[name].gathered_bytes(others // layout.context, element, at)
        for name, at in block.places(layout.coordinates, pair).items()
        if not recomputes(layout.recompute, spec.layers[name].role)
    )


def bytes_per_weight(run: RunConfig) -> float:
    """Weight, gradient and Adam's two moments, and float32 master weights where the weight is smaller; the optimizer's
    part divided among the replicas with the distributed optimizer, and without what lies in the host's memory."""
    layout, element = run.layout, ELEMENT[run.trainer.precision]
    wide = max(element, 4)
    gradient = max(element, ELEMENT[run.trainer.gradients])
    optimizer = (2 * wide + (4 if element < 4 else 0)) * (1 - run.optimizer.cpu_offload)
    return (
        element + gradient + (optimizer / (layout.data * layout.context) if layout.distributed_optimizer else optimizer)
    )
