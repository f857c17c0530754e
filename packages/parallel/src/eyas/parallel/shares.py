"""Jobs side by side on one machine: each has its own GPUs and cores, so that they do not fight over them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from eyas.core.errors import LayoutError
from eyas.parallel.layout import Layout, processes_here

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 0.2
"""Seconds between looks for a free share."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Shares:
    """A machine in equal parts, one for each job that runs at a time."""

    folder: Path
    """Holds a lock for each share."""
    count: int
    gpus: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them; empty without GPUs."""
    cores: tuple[int, ...]

    def check(self, layout: Layout) -> None:
        """Raises LayoutError where the layout needs more than a share."""
        if self.gpus and self.count > len(self.gpus):
            raise LayoutError(
                f"{self.count} jobs side by side cannot share {len(self.gpus)} GPUs; run at most that many at once"
            )
        available = processes_here(len(self.gpus) // self.count)
        layout.check_machine(available, f"the share of one of {self.count} jobs side by side on this machine")

    @contextmanager
    def one(self) -> Iterator[int]:
        """Waits for a free share; inside, this process and those that it starts see no other GPUs and cores. The system
        takes the share back when the process ends, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            streams = [stack.enter_context((self.folder / f"share-{n}.lock").open("a")) for n in range(self.count)]
            number = None
            while number is None:
                number = next((n for n, stream in enumerate(streams) if _locked(stream.fileno())), None)
                if number is None:
                    time.sleep(POLL)
            with _confined(slice_of(self.gpus, number, self.count), slice_of(self.cores, number, self.count)):
                yield number


def shares_here(folder: Path, count: int, gpus: int) -> Shares:
    """This machine's `gpus` GPUs, and the cores that this process may use, in `count` shares."""
    named = tuple(name for name in os.environ.get(VISIBLE, "").split(",") if name) or tuple(map(str, range(gpus)))
    return Shares(folder, count, named[:gpus], tuple(sorted(os.sched_getaffinity(0))))


def slice_of(parts: Sequence[Part], number: int, count: int) -> tuple[Part, ...]:
    """The share `number` of `count` equal ones; where there are fewer parts than shares, one that others have too."""
    if not parts:
        return ()
    size = len(parts) // count
    return tuple(parts[number * size : (number + 1) * size]) if size else (parts[number % len(parts)],)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _confined(gpus: Sequence[str], cores: Sequence[int]) -> Iterator[None]:
    before, visible = os.sched_getaffinity(0), os.environ.get(VISIBLE)
    os.sched_setaffinity(0, cores)
    if gpus:
        os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        if visible is not None:
            os.environ[VISIBLE] = visible
        elif gpus:
            os.environ.pop(VISIBLE, None)
