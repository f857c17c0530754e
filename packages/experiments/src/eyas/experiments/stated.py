"""What runs say of the experiment that they belong to, read back from their folders."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.experiments.run_records import RunRecord


@dataclass(frozen=True)
class Stated:
    """The `experiment` options of one or several runs."""

    question: str
    budget: str
    passes: tuple[str, ...]
    columns: str
    shows: tuple[str, ...]


def stated_by(run: RunRecord) -> Stated:
    """The run's question, budget, rules and wishes for its tables; empty where it states none."""
    question, budget, columns = (
        str(run.config.get(f"experiment.{name}") or "") for name in ("question", "budget", "columns")
    )
    return Stated(question, budget, _lines(run, "passes"), columns, _lines(run, "shows"))


def _lines(run: RunRecord, name: str) -> tuple[str, ...]:
    lines = run.config.get(f"experiment.{name}")
    return tuple(map(str, lines)) if isinstance(lines, list) else ()
