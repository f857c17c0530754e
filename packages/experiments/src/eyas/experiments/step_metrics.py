"""What a training step tells, as one dict: losses, gradient norms, speed, where the time went, memory.

docs/metrics.md has a line on each name.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from eyas.core.accounting import training_flops
from eyas.experiments.peak import peak_of_all
from eyas.experiments.run_config import RunConfig
from eyas.parallel.engine import Engine
from eyas.parallel.over_ranks import over_ranks
from eyas.parallel.step_clock import DATA
from eyas.parallel.this_rank import device_here


class StepMetrics:
    """Measures each step of a run from before its batch is made to after its update; every rank has one."""

    def __init__(self, run: RunConfig, engine: Engine, dtype: torch.dtype) -> None:
        self.run, self.engine = run, engine
        self.length = run.data.sequence_length
        self.flops_per_token = training_flops(run.spec, self.length)
        ranks = run.layout.processes
        self.peak = peak_of_all(run.trainer.peak_tflops, dtype, device_here(), ranks)
        """TFLOP/s of all devices; None where it is not known."""
        self.begun = time.perf_counter()

    def begin(self) -> None:
        """A step begins: its batch is about to be made."""
        if self.run.trainer.step_times:
            self.engine.clock.start(DATA)
        self.begun = time.perf_counter()

    def end(self, step: int, losses: Mapping[str, float], update: tuple[bool, float]) -> dict[str, float]:
        """The step is over: what it tells, the same on every rank. `update` is what the optimizer's step returned."""
        self.engine.clock.stop()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the optimizer's work is only queued
        seconds, memory, parts = self._over_ranks(time.perf_counter() - self.begun)
        batches = self.run.trainer.batches
        tokens, samples = batches.at(step) * self.length, batches.before(step + 1)
        tflops = self.flops_per_token * tokens / seconds / 1e12
        updated, grad_norm = update
        return {
            **{f"train/{name}": loss for name, loss in losses.items()},
            "grad_norm": grad_norm,
            "skipped": 0.0 if updated else 1.0,
            "tokens_per_second": tokens / seconds,
            "tflops": tflops,
            **({} if self.peak is None else {"mfu": tflops / self.peak}),
            "global_batch": float(batches.at(step)),
            "samples": float(samples),
            "tokens": float(samples * self.length),
            "step_seconds": seconds,
            **{f"time/{part}": value for part, value in parts.items()},
            "memory_gib": memory,
            **{f"grad_norms/{kind}": norm for kind, norm in self.engine.gradient_norms.items()},
        }

    def _over_ranks(self, seconds: float) -> tuple[float, float, dict[str, float]]:
        """Mean seconds of the step, the greatest memory, and mean seconds of each part, over the ranks."""
        parts = self.engine.clock.seconds() or {}
        numbers = over_ranks([seconds, memory_gib(), *parts.values()])
        mean = numbers.mean(0).tolist()
        return mean[0], float(numbers[:, 1].max()), dict(zip(parts, mean[2:], strict=True))


def named(figures: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """What mixers tell of a step as metrics: one for each number, those of a list by their place in it."""
    return {
        f"{mixer}/{name}{place}": value
        for mixer, values in figures.items()
        for name, tensor in values.items()
        for place, value in (
            [("", tensor.item())] if tensor.dim() == 0 else [(f"_{i}", v) for i, v in enumerate(tensor.tolist())]
        )
    }


def memory_gib() -> float:
    """Peak memory of this process so far: the GPU's where there is one, else the process's own."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
