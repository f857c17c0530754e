"""What runs say of the experiment that they belong to, read back from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyas.experiments.run_records import RunRecord


@dataclass(frozen=True)
class Stated:
    """What one or several runs are made for."""

    question: str
    budget: str
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Wishes:
    """What an experiment's tables are to look like."""

    columns: str = ""
    """An option whose values are columns instead of rows; empty for none."""
    shows: tuple[str, ...] = ()
    """The metrics that are shown; empty for the usual ones."""


def stated_by(run: RunRecord) -> Stated:
    """The run's question, budget and rules; empty where it states none."""
    return Stated(_text(run, "question"), _text(run, "budget"), _texts(run, "passes"))


def wishes_of(runs: Sequence[RunRecord]) -> Wishes:
    """What all readable runs wish for; nothing where they differ."""
    found = {Wishes(_text(run, "columns"), _texts(run, "shows")) for run in runs if run.config}
    return found.pop() if len(found) == 1 else Wishes()


def _text(run: RunRecord, name: str) -> str:
    return str(run.config.get(f"experiment.{name}") or "")


def _texts(run: RunRecord, name: str) -> tuple[str, ...]:
    lines = run.config.get(f"experiment.{name}")
    return tuple(map(str, lines)) if isinstance(lines, list) else ()
