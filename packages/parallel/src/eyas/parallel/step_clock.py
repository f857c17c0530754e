"""Where the time of a training step goes on this rank: each moment of it belongs to one part.

Megatron-Core's schedules tell when they compute, through what they take for its timers (`config.timers`); the rest of a
schedule is spent on messages between stages. On a GPU the moments are those at which its stream gets there, so that
nothing waits for them, and a step's parts are known one step later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

DATA, FORWARD, BACKWARD, REDUCTION, OPTIMIZER, WAITING = PARTS = (
    "data", "forward", "backward", "reduction", "optimizer", "waiting",
)  # fmt: skip
TIMERS = {"forward-backward": WAITING, "forward-compute": FORWARD, "backward-compute": BACKWARD}
"""Parts that Megatron-Core's timers begin and end; all its others lie in one of them."""

Marks = list[tuple[str, Any]]
"""Moments, each with the part that begins there."""


class StepClock:
    """Counts between `start` and `stop`; between them `inside` a part, or in the part that a step starts with."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.open: list[str] = []
        """The parts that have begun and not ended, the innermost last; none between steps."""
        self.marks: Marks = []
        self.stopped: list[Marks] = []
        """Steps whose parts have not been told."""

    def start(self, part: str) -> None:
        """Begins a step with a part; one that was not stopped is forgotten."""
        self.open, self.marks = [part], [(part, self._now())]

    def stop(self) -> None:
        """Ends the step, if one has begun."""
        if self.open:
            self.marks.append(("", self._now()))
            self.stopped.append(self.marks)
            self.open = []

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """What is done inside counts for `part`."""
        self.enter(part)
        yield
        self.leave()

    def enter(self, part: str) -> None:
        """From here on time counts for `part`."""
        if self.open:
            self.open.append(part)
            self.marks.append((part, self._now()))

    def leave(self) -> None:
        """From here on time counts for the part before."""
        if self.open:
            self.open.pop()
            self.marks.append((self.open[-1], self._now()))

    @property
    def running(self) -> bool:
        return bool(self.open)

    def seconds(self) -> dict[str, float] | None:
        """Seconds of each part in the last step that was stopped; on a GPU in the one before, which is over by now.
        None where there is no such step."""
        waits = 1 if self.device.type == "cuda" else 0
        if len(self.stopped) <= waits:
            return None
        marks = self.stopped[-1 - waits]
        self.stopped = self.stopped[len(self.stopped) - waits :]
        parts = dict.fromkeys(PARTS, 0.0)
        for (part, begun), (_, ended) in pairwise(marks):
            parts[part] += self._between(begun, ended)
        return parts

    def __call__(self, name: str, log_level: int = 0) -> Timer:
        """Megatron-Core's timer of a name."""
        return Timer(self, TIMERS.get(name))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begun: Any, ended: Any) -> float:
        """Seconds from one moment to another, both past."""
        if self.device.type != "cuda":
            return float(ended - begun)
        return float(begun.elapsed_time(ended)) / 1000


class Timer:
    """What Megatron-Core starts and stops around a part; of no part, it does nothing."""

    def __init__(self, clock: StepClock, part: str | None) -> None:
        self.clock, self.part = clock, part

    def start(self, barrier: bool = False) -> None:
        """Begins the part; ranks never wait for each other here."""
        if self.part is not None:
            self.clock.enter(self.part)

    def stop(self, barrier: bool = False) -> None:
        """Ends it."""
        if self.part is not None:
            self.clock.leave()
