"""Side-by-side measurement: the candidates take turns, each one's best time counts, and peak memory is its own."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch tells on the terminal when a profile starts and stops


@dataclass(frozen=True)
class Measured:
    """What one candidate took."""

    seconds: float
    """Shortest of all repetitions, by `clock`."""
    peak_bytes: int
    """Most memory that torch held at once above what it held before the call."""


def side_by_side(
    candidates: Mapping[str, Callable[[], object]], repetitions: int = 7, peaks: Mapping[str, int] | None = None
) -> dict[str, Measured]:
    """Run every candidate once for its memory (with what it keeps from call to call) unless `peaks` are known already,
    then all in turns."""
    now = clock()
    if peaks is None:
        peaks = {name: peak_bytes(run) for name, run in candidates.items()}
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(repetitions):
        for name, run in candidates.items():
            start = now()
            run()
            best[name] = min(best[name], now() - start)
    return {name: Measured(best[name], peaks[name]) for name in candidates}


def clock() -> Callable[[], float]:
    """CPU time with one thread, which others on the machine disturb least; wall time with several, which may wait."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak of torch's allocations on the CPU during `run`, from the profiler's record of every one."""
    gc.collect()  # else what others left would be freed in the record
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def table(title: str, measured: Mapping[str, Measured], baselines: Sequence[str], tokens: int) -> str:
    """A plain-text table with the ratios to every baseline: how many times as fast, how many times the memory."""
    lines = [f"{title}   ({torch.get_num_threads()} thread(s), torch {torch.__version__})"]
    heads = "".join(f"{'vs ' + name:>28}" for name in baselines)
    unit = "CPU ms" if clock() is time.process_time else "ms"
    lines.append(f"  {'':34}{unit:>9}{'ktok/s':>9}{'peak MiB':>10}{heads}")
    for name, one in measured.items():
        line = f"  {name:34}{one.seconds * 1e3:9.1f}{tokens / one.seconds / 1e3:9.1f}{one.peak_bytes / 2**20:10.1f}"
        for base in (measured[baseline] for baseline in baselines):
            line += f"{base.seconds / one.seconds:14.2f}x{one.peak_bytes / base.peak_bytes:7.2f} mem  "
        lines.append(line)
    return "\n".join(lines)
