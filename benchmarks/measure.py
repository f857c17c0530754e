"""Side-by-side measurement: the candidates take turns, each one's best time counts, and peak memory is its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Measured:
    """What one candidate took."""

    seconds: float
    """Shortest of all repetitions."""
    peak_bytes: int
    """Most memory that torch held at once above what it held before the call."""


def side_by_side(candidates: Mapping[str, Callable[[], object]], repetitions: int = 7) -> dict[str, Measured]:
    """Run every candidate once for its memory (with what it keeps from call to call), then all in turns."""
    peaks = {name: peak_bytes(run) for name, run in candidates.items()}
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(repetitions):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: Measured(best[name], peaks[name]) for name in candidates}


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak of torch's allocations on the CPU during `run`, from the profiler's record of every one."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def table(title: str, measured: Mapping[str, Measured], baseline: str, tokens: int) -> str:
    """A plain-text table with the ratios to `baseline`; speed above 1 is faster, memory below 1 is less."""
    base = measured[baseline]
    lines = [f"{title}   ({torch.get_num_threads()} thread(s), torch {torch.__version__})"]
    lines.append(f"  {'':34}{'ms':>9}{'ktok/s':>9}{'speed':>8}{'peak MiB':>10}{'memory':>8}")
    for name, one in measured.items():
        lines.append(
            f"  {name:34}{one.seconds * 1e3:9.1f}{tokens / one.seconds / 1e3:9.1f}{base.seconds / one.seconds:7.2f}x"
            f"{one.peak_bytes / 2**20:10.1f}{one.peak_bytes / base.peak_bytes:7.2f}x"
        )
    return "\n".join(lines)
