"""What the mixtures of experts of a run told of their routers, step by step, read back from its metrics.csv."""

# T steps, E experts

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas.experiments.run_records import STEP

Numbers = NDArray[np.float64]
FIRST_LOAD = "/load_0"
FIGURES = ("max_violation", "entropy", "dropped")


@dataclass(frozen=True)
class Router:
    """One mixture's figures over a run."""

    name: str
    """The mixture's module, as in metrics.csv and TensorBoard."""
    steps_T: Numbers
    load_TE: Numbers
    """Tokens that wanted each expert, as multiples of the mean over the experts."""
    figures: dict[str, Numbers]
    """MaxVio, mean entropy in nats, share of dropped tokens; each (T,)."""


def read_routers(path: Path, most_steps: int) -> list[Router]:
    """Every mixture in a run's metrics.csv, at no more than `most_steps` steps at even distances, the last one among
    them. Rows that lack a number, of a run that was killed say, are left out, and so is what lacks a figure: a mixer of
    one's own may log a load alone."""
    with path.open(newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream), [])
        names = [column.removesuffix(FIRST_LOAD) for column in header if column.endswith(FIRST_LOAD)]
        names = [name for name in names if {f"{name}/{figure}" for figure in FIGURES} <= {*header}]
        lines = stream.readlines() if names else []
    place = {column: index for index, column in enumerate(header)}
    chosen = {round(index) for index in np.linspace(0, len(lines) - 1, min(most_steps, len(lines)))}
    rows = [row for row in csv.reader(lines[index] for index in sorted(chosen)) if len(row) == len(header)]
    return [router for name in names if len((router := _router(name, place, rows)).steps_T)]


def _router(name: str, place: dict[str, int], rows: Sequence[Sequence[str]]) -> Router:
    loads = [column for column in place if column.startswith(f"{name}/load_")]
    loads.sort(key=lambda column: int(column.rpartition("_")[2]))
    columns = [place[column] for column in (STEP, *loads, *(f"{name}/{figure}" for figure in FIGURES))]
    whole = [[float(row[column]) for column in columns] for row in rows if all(row[column] for column in columns)]
    numbers = np.array(whole).reshape(-1, len(columns))
    figures = dict(zip(FIGURES, numbers[:, 1 + len(loads) :].T, strict=True))
    return Router(name, numbers[:, 0], numbers[:, 1 : 1 + len(loads)], figures)
