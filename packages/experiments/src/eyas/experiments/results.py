"""What runs have in common and where they differ: options beside metrics, averaged over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from os.path import commonpath
from pathlib import Path
from statistics import mean, stdev

from eyas.experiments.metric_names import in_order
from eyas.experiments.named_step import run_of
from eyas.experiments.origin import is_seed
from eyas.experiments.run_records import RunRecord, find_runs
from eyas.experiments.stated import Wishes, wishes_of

SEED = "seed"
EXPERIMENT = "experiment."
BRANCH = "branch_from"


@dataclass(frozen=True)
class Row:
    """One run, or finished runs that differ in the seed alone."""

    options: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    remark: str = ""
    """Why there are no results, or none to trust; empty for finished runs."""

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it; the mean where several runs have the same seed, of several tasks say."""
        return self.of_seeds([run.metrics.get(metric) for run in self.runs])

    def of_seeds(self, values: Sequence[float | None]) -> list[float]:
        """The mean over what runs of one seed have, for each seed; a value for each run."""
        found: dict[object, list[float]] = {}
        for place, (run, value) in enumerate(zip(self.runs, values, strict=True)):
            if value is not None:
                found.setdefault(run.seeds or place, []).append(value)
        return [mean(alike) for alike in found.values()]


@dataclass(frozen=True)
class Results:
    """Runs beside one another: the options that differ, the metrics that exist, and a row for each group of runs."""

    directory: Path
    """Holds all the runs."""
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    wishes: Wishes = Wishes()
    """What the experiment says of its tables."""
    columns_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The metrics as runs name them, and which of `metrics` they are, where those are named after columns; else empty.
    """

    @property
    def runs(self) -> list[RunRecord]:
        """Of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def asked(self) -> tuple[str, ...]:
        """The metrics that the experiment names, of those that there are."""
        return tuple(name for name in dict.fromkeys(self.wishes.shows) if name in self.metrics)

    def leading(self, most: int) -> tuple[str, ...]:
        """The metrics that the experiment names, else the first `most`."""
        return self.asked or self.metrics[:most]

    def label(self, run: RunRecord) -> str:
        """The run's folder below what holds all of them."""
        name = run.path.absolute().relative_to(self.directory.absolute()).as_posix()
        return run.path.name if name == "." else name


def collect(*directories: Path, by_seed: bool = False) -> Results:
    """Reads the run in each folder, or all runs below it; runs that differ in the seed alone share a row unless
    `by_seed`."""
    runs = find_runs(*directories)
    forget_ambiguous(runs)
    options = varying_options(runs)
    if by_seed and any(option(run, SEED) for run in runs):
        options = (SEED, *options)
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(beside_seed(run, name) for name in options), []).append(run)
    rows: list[Row] = []
    for values, group in groups.items():
        finished = tuple(run for run in group if not run.remark)
        parts = [(run,) for run in finished] if by_seed else [finished] if finished else []
        rows += [Row(values, part) for part in parts]
        rows += [Row(values, (run,), run.remark) for run in group if run.remark]
    metrics = in_order({name for run in runs for name in run.metrics})
    one = len(directories) == 1
    directory = directories[0] if one else Path(commonpath([folder.absolute() for folder in directories]))
    return Results(directory, options, metrics, tuple(rows), wishes_of(runs))


def varying_options(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The options that tell the runs apart, without seeds: varied overrides first, then what they do not explain.

    An option is explained when runs that agree in the columns so far agree in it too: `model=a,b` explains every
    option below `model`. Nothing counts as explained by a seed, so runs that differ in more are never averaged.
    """
    readable = [run for run in runs if run.config]
    asked = dict.fromkeys(name for run in readable for name in run.overrides)
    columns = [name for name in asked if not is_seed(name) and len({beside_seed(run, name) for run in readable}) > 1]
    for name in differing_options(readable):
        if name not in columns and not _explained(readable, columns, name):
            columns.append(name)
    return tuple(columns)


def differing_options(runs: Sequence[RunRecord]) -> list[str]:
    """Every option, but seeds and what the experiment says of itself, that is not the same in all runs; outer first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name in run.config:
            if not (is_seed(name) or name.startswith(EXPERIMENT)):
                values.setdefault(name, set())
    for run in runs:
        for name, found in values.items():
            found.add(beside_seed(run, name))
    names = [name for name, found in values.items() if len(found) > 1]
    differing = [name for name in names if len({_beside_folder(run, beside_seed(run, name)) for run in runs}) > 1]
    return sorted(differing, key=lambda name: (name.count("."), name))


def option(run: RunRecord, name: str) -> str:
    """An option as it was resolved, or the file that was chosen where it is a config group; empty where there is
    none."""
    if name not in run.config:
        return run.overrides.get(name) or run.choices.get(name, "")
    value = run.config[name]
    return value if isinstance(value, str) else str(value).replace("'", "")


def forget_ambiguous(runs: Sequence[RunRecord]) -> None:
    """Has runs count by its value what is made of the seed, where one seed has several values of it: a run that was
    trained anew in between, say."""
    values: dict[tuple[object, ...], set[str]] = {}
    for run in runs:
        if run.state == "failed":  # it has no results to average, and perhaps a path that was never made whole
            continue
        for name, written in run.seeded.items():
            values.setdefault((name, written, run.seeds), set()).add(_made(run, name))
    ambiguous = {(name, written) for (name, written, _), found in values.items() if len(found) > 1}
    for run in runs:
        run.seeded = {name: written for name, written in run.seeded.items() if (name, written) not in ambiguous}


def _made(run: RunRecord, name: str) -> str:
    """What was made of the seed. The step that a branch goes on from may follow from other options, such as its
    length."""
    value = option(run, name)
    return str(run_of(value)) if name == BRANCH else value


def beside_seed(run: RunRecord, name: str) -> str:
    """The option; as it was written where it is made of the seed, so that it is the same for every seed."""
    return run.seeded.get(name) or option(run, name)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values, not a number where one is not finite."""
    if len(values) < 2:
        return None
    return stdev(values) if all(map(isfinite, values)) else nan


def _explained(runs: Sequence[RunRecord], columns: Sequence[str], name: str) -> bool:
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(beside_seed(run, column) for column in columns), []).append(run)
    return all(len({_beside_folder(run, beside_seed(run, name)) for run in group}) == 1 for group in groups.values())


def _beside_folder(run: RunRecord, value: str) -> str:
    """The value without the run's own folder, which differs for every run and tells nothing. A folder's name alone, as
    the folders below the present one are given, is no more than a word or a number, which any value may hold."""
    value = value.replace(str(run.path.resolve()), "")
    return value.replace(str(run.path), "") if len(run.path.parts) > 1 else value
