"""What the page's script draws, as plain data: rows, runs, curves and metrics by length."""

from __future__ import annotations

from math import isfinite
from statistics import mean
from typing import Any

from eyas.experiments.metric_names import at_length
from eyas.experiments.report.curves import packed
from eyas.experiments.report.gather import Gathered
from eyas.experiments.report.markup import Markup, element
from eyas.experiments.results import Results, Row, deviation

LONG_LABEL = 90


def plots_section(gathered: Gathered) -> Markup | None:
    """Where the script draws; the numbers of its last points are in the table."""
    parts = []
    if gathered.curves:
        note = "Drag over a plot to zoom; double-click, or press 0, to see all of it. Arrow keys move, + and - zoom."
        if gathered.thinned:
            note += (
                f" Longer curves are thinned to at most {gathered.most_points} of their points: of each stretch of "
                "neighbouring steps the least and the greatest value are kept, so peaks are true and density is not."
            )
        parts += [element("div", id="curves", class_="plots"), element("p", note, class_="note")]
    if lengths(gathered.results):
        parts += [element("h3", "By length"), element("div", id="lengths", class_="plots")]
    if not parts:
        return None
    legend = element("div", id="legend", role="group", aria_label="Rows that are drawn")
    script = element("noscript", element("p", "The plots need JavaScript; the tables do not."))
    return element("section", element("h2", "Curves"), script, legend, *parts, id="plots")


def plot_data(gathered: Gathered) -> dict[str, Any]:
    """Runs and rows by number; points of curves as base64 of single-precision numbers."""
    results = gathered.results
    numbers = {id(run): number for number, run in enumerate(results.runs)}
    row_of = [index for index, row in enumerate(results.rows) for _ in row.runs]
    return {
        "rows": [row_label(results, row) for row in results.rows],
        "runs": [[row, results.label(run)] for row, run in zip(row_of, results.runs, strict=True)],
        "curves": [
            {
                "name": name,
                "lines": [[numbers[id(run)], packed(line.steps_T), packed(line.values_T)] for run, line in lines],
            }
            for name, lines in gathered.curves.items()
        ],
        "lengths": lengths(results),
    }


def row_label(results: Results, row: Row) -> str:
    """What tells the row from the others: its values of what varies."""
    named = zip(results.options, row.options, strict=True)
    values = [f"{name.rpartition('.')[2]}={value}" for name, value in named if value]
    label, run = " ".join(values), results.label(row.runs[0])
    if len(label) > LONG_LABEL:
        return f"{run}: {label[:LONG_LABEL]}…"
    return f"{label} ({run})" if row.remark and values else label or run


def lengths(results: Results) -> list[dict[str, Any]]:
    """Of each metric that was measured at several lengths: for each row its lengths, means and deviations."""
    measured: dict[str, list[int]] = {}
    for metric in results.metrics:
        if found := at_length(metric):
            measured.setdefault(found[0], []).append(found[1])
    charts = []
    for name, at in measured.items():
        lines = []
        for index, row in enumerate(results.rows):
            known = [(length, row.values(f"{name}@{length}")) for length in sorted(at)]
            points = [
                [length, mean(values), deviation(values) or 0.0]
                for length, values in known
                if values and all(map(isfinite, values))
            ]
            if points:
                lines.append([index, points])
        if lines:
            charts.append({"name": name, "lines": lines})
    return charts
