"""What a report tells, read from the run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from eyas.core.errors import DataError
from eyas.experiments.report.curves import Curve, curve_names, points_for, read_curves, thin
from eyas.experiments.results import Results, collect, differing_options
from eyas.experiments.router_picture import MOST_STEPS, picture, read_routers
from eyas.experiments.run_records import CURVES, ENVIRONMENT, RunRecord
from eyas.experiments.stated import Stated, stated_by
from eyas.experiments.verdicts import Verdict, judge

ROUTER_BYTES = 1_500_000
"""Of all router pictures in a report; the runs beyond keep theirs in their own folders."""


@dataclass(frozen=True)
class Gathered:
    """Everything on the page."""

    results: Results
    stated: list[Stated]
    verdicts: list[Verdict]
    differences: list[str]
    """Options that are not the same in all runs."""
    curves: dict[str, list[tuple[RunRecord, Curve]]]
    """By metric; thinned."""
    most_points: int
    thinned: bool
    routers: list[tuple[RunRecord, str]]
    """SVG pictures, of the first run of each row."""
    routers_left_out: int
    environment: dict[str, dict[str, int]]
    """Each entry's values, and in how many runs."""
    unread: list[str] = field(default_factory=list)
    """Why something is missing."""


def gather(*directories: Path) -> Gathered:
    """Reads the runs below the folders."""
    results = collect(*directories)
    runs, unread = results.runs, list[str]()
    names = curve_names([run.path / CURVES for run in runs])
    most = points_for(len(names) * len(runs))
    curves: dict[str, list[tuple[RunRecord, Curve]]] = {name: [] for name in names}
    thinned = False
    for run in runs:
        try:
            found = read_curves(run.path / CURVES, names)
        except DataError as error:
            unread.append(str(error))
            continue
        for name, curve in found.items():
            drawn = thin(curve, most)
            thinned |= drawn is not curve
            curves[name].append((run, drawn))
    routers, left_out = _routers(results)
    return Gathered(
        results=results,
        stated=[stated for stated in dict.fromkeys(map(stated_by, runs)) if any((stated.question, stated.budget))],
        verdicts=judge(results, cache(_logged)),
        differences=differing_options([run for run in runs if run.config]),
        curves={name: lines for name, lines in curves.items() if lines},
        most_points=most,
        thinned=thinned,
        routers=routers,
        routers_left_out=left_out,
        environment=_environment(runs),
        unread=unread,
    )


def _logged(folder: Path, metric: str) -> dict[int, float]:
    try:
        curve = read_curves(folder / CURVES, [metric]).get(metric)
    except DataError:  # which the page tells beside its curves
        return {}
    return {} if curve is None else curve.by_step()


def _routers(results: Results) -> tuple[list[tuple[RunRecord, str]], int]:
    """Pictures as long as there is room, and how many more there would be."""
    pictures: list[tuple[RunRecord, str]] = []
    room, more = ROUTER_BYTES, 0
    for run in (row.runs[0] for row in results.rows):
        path = run.path / CURVES
        if not path.exists() or not (routers := read_routers(path, MOST_STEPS if room > 0 else 2)):
            continue
        svg = picture(routers, results.label(run))
        room -= len(svg)
        if room < 0:
            more += 1
        else:
            pictures.append((run, svg))
    return pictures, more


def _environment(runs: list[RunRecord]) -> dict[str, dict[str, int]]:
    entries: dict[str, dict[str, int]] = {}
    for run in runs:
        try:
            data = json.loads((run.path / ENVIRONMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {"environment": f"no readable {ENVIRONMENT}"}
        for name, value in _entries(data if isinstance(data, dict) else {}):
            counts = entries.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1
    return entries


def _entries(data: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, dict):
            found += _entries(value, f"{above}{name} ")
        elif value is not None:
            found.append((f"{above}{name}", " ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found
