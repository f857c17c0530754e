"""How the jobs of a sweep are doing: one live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eyas.experiments.run_records import CURVES, STATUS, STEP

PERIOD = 1.0
"""Seconds between looks at the run folders."""
SAID = 60.0
"""Seconds between lines on a running job where the output is no terminal."""
TAIL = 1 << 16
"""Bytes that the last rows of metrics.csv are looked for in."""
ORDER = ("running", "failed", "waiting", "finished")
"""What stands first where there are more jobs than lines."""
BEFORE = "finished before"


@dataclass
class Shown:
    """A job as the table shows it."""

    number: int
    varies: str
    """The overrides that not all jobs share."""
    folder: Path
    steps: int
    state: str = "waiting"
    step: int = 0
    loss: str = ""
    speed: str = ""
    stale: tuple[int, int] | None = None
    """What marks the status that an earlier sweep left."""

    def look(self) -> None:
        """Reads how far the job is."""
        status = self.folder / STATUS
        if self.state == BEFORE or mark(status) in (None, self.stale):
            return
        try:
            found = json.loads(status.read_text())
        except (OSError, ValueError):
            return
        self.state = str(found.get("state"))
        row = last_row(self.folder / CURVES)
        if row.get(STEP):
            self.step = int(row[STEP]) + 1
            self.loss = _number(row.get("train/loss", ""), "{:.3f}")
            self.speed = _number(row.get("tokens_per_second", ""), "{:,.0f}")

    @property
    def cells(self) -> tuple[str, ...]:
        step = f"{self.step}/{self.steps}" if self.step else ""
        return str(self.number), self.varies, step, self.loss, self.speed, self.state

    @property
    def line(self) -> str:
        how = f"  step {self.step}/{self.steps}  loss {self.loss}  {self.speed} tokens/s" if self.step else ""
        return f"job {self.number}  {self.varies}{how}  {self.state}"


class SweepTable:
    """Looks at the jobs' folders now and then while they run, wherever they run."""

    def __init__(self, jobs: Sequence[Shown]) -> None:
        self.jobs = jobs
        for job in jobs:
            job.stale = mark(job.folder / STATUS)
        self.console = Console(file=sys.stdout, highlight=False)
        self.said: dict[int, tuple[str, float]] = {}
        self.live = Live(console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.thread.join()
        self._show()
        if self.console.is_terminal:
            self.live.stop()

    def _watch(self) -> None:
        while not self.over.wait(PERIOD):
            self._show()

    def _show(self) -> None:
        for job in self.jobs:
            job.look()
        if self.console.is_terminal:
            self.live.update(self.table(self.console.height - 5), refresh=True)
            return
        now = time.monotonic()
        for job in self.jobs:
            state, at = self.said.get(job.number, ("waiting", now))
            if (job.state != state and job.state != BEFORE) or (job.state == "running" and now - at > SAID):
                self.said[job.number] = job.state, now
                self.console.print(Text(job.line), soft_wrap=True)

    def table(self, lines: int) -> Table:
        """The jobs in order; where there are more than `lines`, those that are at work and those that failed first."""
        table = Table(title_justify="left")
        for heading in ("job", "what varies", "step", "loss", "tokens/s", "state"):
            table.add_column(heading, justify="left" if heading in ("what varies", "state") else "right")
        urgent = sorted(self.jobs, key=lambda job: ORDER.index(job.state) if job.state in ORDER else len(ORDER))
        kept = urgent[: max(1, lines)]
        for job in sorted(kept, key=lambda job: job.number):
            table.add_row(*map(Text, job.cells), style="red" if job.state == "failed" else None)
        if len(kept) < len(self.jobs):
            left = Counter(job.state for job in urgent[len(kept) :])
            table.caption = "and " + ", ".join(f"{count} {state}" for state, count in left.items())
        return table


def mark(path: Path) -> tuple[int, int] | None:
    """Differs after each writing of the file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def last_row(path: Path) -> dict[str, str]:
    """The last whole row of a run's metrics.csv; empty where there is none."""
    try:
        with path.open("rb") as stream:
            heading = stream.readline()
            start = stream.tell()
            stream.seek(max(start, path.stat().st_size - TAIL))
            rows = stream.read().decode(errors="replace").split("\n")[:-1]
    except OSError:
        return {}
    names = heading.decode(errors="replace").rstrip("\n").split(",")
    values = rows[-1].split(",") if rows else []
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def _number(text: str, form: str) -> str:
    return form.format(float(text)) if text else ""
