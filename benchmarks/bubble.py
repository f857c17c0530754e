"""How long pipeline processes wait: the bubble of Megatron-Core's schedules in the engine, beside its formula.

python benchmarks/bubble.py [--pipeline 4] [--microbatches 8 16] [--virtual 1 2] [--milliseconds 40] [--steps 3]

A stage costs a time that is set: it sleeps, twice as long backward as forward, so that processes may share a core. What
a step takes beyond the time that a process sleeps is the bubble; p processes with v stages each and m microbatches
should have (p - 1) / (v m) of the sleep. All stages cost the same, and their number does not change the whole cost.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

from eyas.core.mixer import Placement, empty_parameter
from eyas.core.weights import replicated
from eyas.parallel.engine import Engine, stages_here
from eyas.parallel.groups import initialise
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool, preload

BACKWARD = 2
"""Cost of a backward pass in forward passes."""
HIDDEN = 4


class Costing(torch.autograd.Function):
    """Costs a number of seconds forward and twice that backward; adds up what it really took in `spent`."""

    @staticmethod
    def forward(context: Any, x: Tensor, seconds: float, spent: list[float]) -> Tensor:
        context.seconds, context.spent = seconds, spent
        spend(seconds, spent)
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        spend(BACKWARD * context.seconds, context.spent)
        return gradient.clone(), None, None


def spend(seconds: float, spent: list[float]) -> None:
    """Sleeps, and notes for how long."""
    started = time.perf_counter()
    time.sleep(seconds)
    spent.append(time.perf_counter() - started)


class CostingStage(nn.Module):
    """A pipeline stage of one weight and a set cost."""

    def __init__(self, seconds: float, spent: list[float], first: bool, last: bool) -> None:
        super().__init__()
        self.weight = empty_parameter(replicated(HIDDEN), Placement(0, 1, torch.float32, "cpu"))
        nn.init.ones_(self.weight)
        self.seconds, self.spent, self.first, self.last = seconds, spent, first, last

    def forward(self, tokens_BS: Tensor, labels_BS: Tensor, hidden_sBD: Tensor | None) -> Tensor:
        """tokens, labels: (B, S); hidden: (S, B, D). Returns the same, or each token's loss (S, B)."""
        if self.first:
            hidden_sBD = tokens_BS.t()[..., None].expand(-1, -1, HIDDEN).float()
        assert hidden_sBD is not None
        h_sBD = Costing.apply(hidden_sBD * self.weight, self.seconds, self.spent)
        return h_sBD.mean(-1) if self.last else h_sBD


def step_times(layout: Layout, microbatches: int, seconds: float, steps: int) -> tuple[float, float]:
    """This rank's part: the shortest step and what of it was spent on its stages, in seconds."""
    initialise(layout)
    spent: list[float] = []
    share, end = seconds / layout.virtual_pipeline, layout.stage_count - 1
    stages = [CostingStage(share, spent, number == 0, number == end) for number in stages_here(layout)]
    engine = Engine(
        stages, layout, hidden_size=HIDDEN, dtype=torch.float32, optimizer=OptimizerOptions(learning_rate=1e-3)
    )
    batch = {"tokens": torch.ones(1, 2, dtype=torch.long), "labels": torch.ones(1, 2, dtype=torch.long)}
    found = []
    for _ in range(steps):
        spent.clear()
        torch.distributed.barrier()
        started = time.perf_counter()
        engine.train_step([batch] * microbatches)
        found.append((time.perf_counter() - started, sum(spent)))
    return min(found)


def bubble(layout: Layout, microbatches: int, seconds: float, steps: int) -> float:
    """The time that ranks wait in a step, on average, as a fraction of the time that they spend on their stages."""
    ranks = pool(layout.processes).run(step_times, layout, microbatches, seconds, steps)
    return sum(took / spent - 1 for took, spent in ranks) / len(ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", type=int, default=4)
    parser.add_argument("--virtual", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--microbatches", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--milliseconds", type=float, default=40, help="forward, of a process's stages together")
    parser.add_argument("--steps", type=int, default=3, help="of which the shortest counts")
    options = parser.parse_args()
    preload()
    print(f"{'p':>3}{'v':>3}{'m':>4}{'measured':>10}{'formula':>9}{'off by':>8}")
    for virtual in options.virtual:
        layout = Layout(pipeline=options.pipeline, virtual_pipeline=virtual)
        for microbatches in options.microbatches:
            formula = (layout.pipeline - 1) / (virtual * microbatches)
            measured = bubble(layout, microbatches, options.milliseconds / 1000, options.steps)
            off = measured / formula - 1
            print(
                f"{layout.pipeline:3}{virtual:3}{microbatches:4}{measured:10.4f}{formula:9.4f}{off:+8.1%}", flush=True
            )


if __name__ == "__main__":
    main()
