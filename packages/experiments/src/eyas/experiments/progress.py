"""Progress of long work before training, shown where somebody is looking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


class Reporter:
    """Shows one line for each stage of the work on a terminal, and nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20))
        times = (TextColumn("{task.completed:,} documents"), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, *times, console=Console(file=stream), disable=not stream.isatty())

    def each(self, stage: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """Yields the items and counts them on the stage's line, beside how many there will be where that is known."""
        task = self.progress.add_task(stage, total=total)
        for item in items:
            self.progress.advance(task)
            yield item

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
