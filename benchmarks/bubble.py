"""How long pipeline processes wait: the bubble of Megatron-Core's schedules in the engine, beside its formula.

python benchmarks/bubble.py [--pipeline 4] [--microbatches 8 16] [--virtual 1 2] [--milliseconds 400] [--steps 2]

A stage costs a time that is set: it sleeps, twice as long backward as forward, so that processes may share a core. What
a step takes beyond the time that a process sleeps is the bubble; p processes with v stages each and m microbatches
should have (p - 1) / (v m) of the sleep. All stages cost the same, and their number does not change the whole cost.
Beside what was measured stands what the order of the passes alone gives: there nobody sleeps, each process has a clock
of its own, and messages carry the time at which they were sent.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

from eyas.core.mixer import Placement, empty_parameter
from eyas.core.weights import replicated
from eyas.parallel.engine import Engine
from eyas.parallel.groups import initialise
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool, preload
from eyas.parallel.this_rank import stages_here

BACKWARD = 2
"""Cost of a backward pass in forward passes."""
HIDDEN = 4


class Sleeper:
    """Works by sleeping; knows how long it worked, and how much time has passed since its start."""

    def __init__(self) -> None:
        self.worked, self.started = 0.0, time.perf_counter()

    def work(self, message: Tensor, seconds: float) -> Tensor:
        """Sleeps on a message, and passes it on."""
        begun = time.perf_counter()
        time.sleep(seconds)
        self.worked += time.perf_counter() - begun
        return message.clone()

    @property
    def passed(self) -> float:
        return time.perf_counter() - self.started


class Clock:
    """Works in no time: a message is the time at which it was sent; work begins then, or when the last work ended."""

    def __init__(self) -> None:
        self.worked = self.passed = 0.0

    def work(self, message: Tensor, seconds: float) -> Tensor:
        """Sets the clock to the end of the work, and sends that."""
        self.worked += seconds
        self.passed = max(self.passed, float(message.max())) + seconds
        return torch.full_like(message, self.passed)


class Costing(torch.autograd.Function):
    """Costs a number of seconds of someone's work forward, and twice that backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float, worker: Sleeper | Clock) -> Tensor:
        ctx.seconds, ctx.worker = seconds, worker
        return worker.work(x, seconds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.worker.work(gradient, BACKWARD * ctx.seconds), None, None


class CostingStage(nn.Module):
    """A pipeline stage of one weight and a set cost."""

    def __init__(self, seconds: float, number: int, first: bool, last: bool) -> None:
        super().__init__()
        self.name = f"weight_{number}"
        self.register_parameter(self.name, nn.init.ones_(empty_parameter(replicated(HIDDEN), Placement())))
        self.seconds, self.first, self.last = seconds, first, last
        self.worker: Sleeper | Clock = Clock()

    def forward(self, tokens_BS: Tensor, labels_BS: Tensor, hidden_sBD: Tensor | None) -> Tensor:
        """tokens, labels: (B, S); hidden: (S, B, D). Returns the same, or each token's loss (S, B)."""
        if self.first:
            hidden_sBD = torch.zeros(*tokens_BS.t().shape, HIDDEN)
        assert hidden_sBD is not None
        h_sBD = Costing.apply(hidden_sBD * self.get_parameter(self.name), self.seconds, self.worker)
        return 0.0 * h_sBD.mean(-1) if self.last else h_sBD


def bubble(layout: Layout, microbatches: int, worker: type[Sleeper | Clock], seconds: float, steps: int = 1) -> float:
    """The time that processes wait in a step, on average, as a fraction of the time that they work: the least of
    several steps. A process works `seconds` forward on each microbatch."""
    ranks = pool(layout.processes).run(waits_here, layout, microbatches, worker, seconds, steps)
    return min(sum(waits) / len(ranks) for waits in zip(*ranks, strict=True))


def waits_here(
    layout: Layout, microbatches: int, worker: type[Sleeper | Clock], seconds: float, steps: int
) -> list[float]:
    """This rank's part: the time that it waited in each step, as a fraction of the time that it worked."""
    initialise(layout)
    share, end = seconds / layout.virtual_pipeline, layout.stage_count - 1
    stages = [CostingStage(share, number, number == 0, number == end) for number in stages_here(layout)]
    engine = Engine(
        stages, layout, hidden_size=HIDDEN, dtype=torch.float32, optimizer=OptimizerOptions(learning_rate=1e-3)
    )
    batch = {"tokens": torch.ones(1, 2, dtype=torch.long), "labels": torch.ones(1, 2, dtype=torch.long)}
    waits = []
    for _ in range(steps):
        torch.distributed.barrier()
        mine = worker()
        for stage in stages:
            stage.worker = mine
        engine.train_step([batch] * microbatches)
        end_of_step = everyones_last(mine.passed)
        waits.append(end_of_step / mine.worked - 1)
    return waits


def everyones_last(passed: float) -> float:
    """The time that the slowest rank took."""
    latest = torch.tensor(passed, dtype=torch.float64)
    torch.distributed.all_reduce(latest, torch.distributed.ReduceOp.MAX)
    return latest.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", type=int, default=4)
    parser.add_argument("--virtual", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--microbatches", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--milliseconds", type=float, default=400, help="of a process's forward work on a microbatch")
    parser.add_argument("--steps", type=int, default=2, help="of which the shortest counts")
    options = parser.parse_args()
    preload()
    print(f"{'p':>3}{'v':>3}{'m':>4}{'measured':>10}{'by order':>10}{'formula':>9}{'off by':>8}")
    for virtual in options.virtual:
        layout = Layout(pipeline=options.pipeline, virtual_pipeline=virtual)
        for microbatches in options.microbatches:
            formula = (layout.pipeline - 1) / (virtual * microbatches)
            measured = bubble(layout, microbatches, Sleeper, options.milliseconds / 1000, options.steps)
            ordered = bubble(layout, microbatches, Clock, 1.0)
            print(
                f"{layout.pipeline:3}{virtual:3}{microbatches:4}{measured:10.4f}{ordered:10.4f}{formula:9.4f}"
                f"{measured / formula - 1:+8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
