"""What runs have in common and where they differ: options beside metrics, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from eyas.experiments.run_records import RunRecord, find_runs

SEED = "seed"
FIRST_METRICS = (
    "accuracy", "whole_accuracy", "excess_loss", "validation_loss", "train_loss", "tokens_per_second", "parameters",
    "memory_gib", "seconds",
)  # fmt: skip
"""Metrics that come first, where they exist; the others follow by name."""


@dataclass(frozen=True)
class Row:
    """One run, or finished runs that differ in the seed alone."""

    options: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    remark: str = ""
    """Why there are no results, or none to trust; empty for finished runs."""

    def values(self, metric: str) -> list[float]:
        """The metric of every run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]


@dataclass(frozen=True)
class Results:
    """Runs beside one another: the options that differ, the metrics that exist, and a row for each group of runs."""

    directory: Path
    by_seed: bool
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def collect(directory: Path, by_seed: bool = False) -> Results:
    """Reads a run, or all runs below a folder; runs that differ in the seed alone share a row unless `by_seed`."""
    runs = find_runs(directory)
    options = varying_options(runs)
    if by_seed and any(option(run, SEED) for run in runs):
        options = (SEED, *options)
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(option(run, name) for name in options), []).append(run)
    rows: list[Row] = []
    for values, group in groups.items():
        finished = tuple(run for run in group if not run.remark)
        parts = [(run,) for run in finished] if by_seed else [finished] if finished else []
        rows += [Row(values, part) for part in parts]
        rows += [Row(values, (run,), run.remark) for run in group if run.remark]
    metrics = {name for run in runs for name in run.metrics}
    first = [name for name in FIRST_METRICS if name in metrics]
    return Results(directory, by_seed, options, (*first, *sorted(metrics.difference(first))), tuple(rows))


def varying_options(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The options that tell the runs apart, without seeds: varied overrides first, then what they do not explain.

    An option is explained when runs that agree in the columns so far agree in it too: `model=a,b` explains every
    option below `model`. Nothing counts as explained by a seed, so runs that differ in more are never averaged.
    """
    readable = [run for run in runs if run.config]
    asked = dict.fromkeys(name for run in readable for name in run.overrides)
    columns = [name for name in asked if not _is_seed(name) and len({option(run, name) for run in readable}) > 1]
    names = {name for run in readable for name in run.config}
    for name in sorted(names.difference(columns), key=lambda name: (name.count("."), name)):
        if not _is_seed(name) and not _explained(readable, columns, name):
            columns.append(name)
    return tuple(columns)


def option(run: RunRecord, name: str) -> str:
    """An option as it was resolved, or as it was asked for where it names a config group; empty where there is none."""
    if name not in run.config:
        return run.overrides.get(name, "")
    value = run.config[name]
    return value if isinstance(value, str) else str(value).replace("'", "")


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == SEED


def _explained(runs: Sequence[RunRecord], columns: Sequence[str], name: str) -> bool:
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(option(run, column) for column in columns), []).append(run)
    return all(len({_beside_folder(run, option(run, name)) for run in group}) == 1 for group in groups.values())


def _beside_folder(run: RunRecord, value: str) -> str:
    """The value without the run's own folder, which differs for every run and tells nothing."""
    return value.replace(str(run.path.resolve()), "").replace(str(run.path), "")
