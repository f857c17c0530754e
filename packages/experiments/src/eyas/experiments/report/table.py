"""The table of results as HTML: sortable, filtered, its columns chosen by the script beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from statistics import mean
from urllib.parse import quote

from eyas.experiments.metric_names import LENGTH
from eyas.experiments.noise import RULE, best_rows
from eyas.experiments.report.markup import Markup, element, joined
from eyas.experiments.results import Results, Row
from eyas.experiments.results_table import MOST_OPTIONS, cell
from eyas.experiments.run_records import RunRecord
from eyas.experiments.side_by_side import side_by_side

HIDDEN = frozenset({"uniform_loss", "unigram_loss", "steps", "samples", "tokens", "tail_parameters"})
"""Columns that stand in the file but are not shown until they are asked for, as are metrics at a length."""
MOST_SHOWN = 12
MOST_LINKS = 4


def results_section(results: Results, page: Path) -> Markup:
    """The whole section, as the experiment wants its tables; links are relative to the folder of the page."""
    drawn = {run.path: index for index, row in enumerate(results.rows) for run in row.runs}
    table = side_by_side(results)
    notes = [RULE, "± is the sample standard deviation over seeds."]
    if table.options != results.options:
        notes.append(f"What runs cost is averaged over {table.wishes.columns} too.")
    return element(
        "section",
        element("h2", "Results"),
        element("div", _filter(), _columns(table), class_="controls"),
        element("div", _table(table, page, drawn), class_="scroll"),
        element("p", " ".join(notes), class_="note"),
        id="results",
    )


def run_link(results: Results, run: RunRecord, page: Path) -> Markup:
    """A link to a run's folder."""
    path = os.path.relpath(run.path, page.parent)
    return element("a", results.label(run), href=quote(Path(path).as_posix(), safe="/.") + "/")


def columns(results: Results) -> list[tuple[str, bool]]:
    """Every column's name, and whether it is shown from the start."""
    noted = any(row.remark for row in results.rows)
    metrics, shown = [], 0
    for name in results.metrics:
        usual = name.rpartition("/")[2] not in HIDDEN and LENGTH not in name and shown < MOST_SHOWN
        show = name in results.asked if results.asked else usual
        shown += show
        metrics.append((name, show))
    options = [(name, index < MOST_OPTIONS) for index, name in enumerate(results.options)]
    return [("runs", True), *options, *metrics, *[("note", True)] * noted]


def _filter() -> Markup:
    return element("label", "Filter rows ", element("input", type="search", id="filter", autocomplete="off"))


def _columns(results: Results) -> Markup:
    boxes = [
        element("label", element("input", type="checkbox", data_column=index, checked=shown), f" {name}")
        for index, (name, shown) in enumerate(columns(results))
    ]
    return element("details", element("summary", "Columns"), element("div", *boxes, class_="boxes"), id="columns")


def _table(results: Results, page: Path, drawn: Mapping[Path, int]) -> Markup:
    """`drawn` tells the row of the plots that a run is in."""
    named = columns(results)
    heads = [
        element("th", element("button", name, type="button"), scope="col", hidden=not show, aria_sort="none")
        for name, show in named
    ]
    best = {name: best_rows(results, name) for name in results.metrics}
    shown = dict(named)
    lines = []
    for index, row in enumerate(results.rows):
        cells = [element("th", _runs(results, row, page), scope="row", data_value=str(index))]
        cells += [
            element("td", value, data_value=value, hidden=not shown[name])
            for name, value in zip(results.options, row.options, strict=True)
        ]
        cells += [_number(row, name, row in best[name], hidden=not shown[name]) for name in results.metrics]
        if named[-1][0] == "note":
            cells.append(element("td", row.remark, data_value=row.remark, class_="remark"))
        drawn_as = " ".join(map(str, dict.fromkeys(drawn[run.path] for run in row.runs)))
        lines.append(element("tr", *cells, data_rows=drawn_as, class_="failed" if row.remark else None))
    return element(
        "table",
        element("caption", "Means over seeds. A heading sorts by its column."),
        element("thead", element("tr", *heads)),
        element("tbody", *lines),
        id="table",
    )


def _number(row: Row, metric: str, best: bool, hidden: bool) -> Markup:
    values = row.values(metric)
    shown: str = cell(values)
    if best:
        shown = element("strong", shown, title="best beyond the noise")
    value = mean(values) if values and all(map(isfinite, values)) else None
    each = ", ".join(f"{value:.6g}" for value in values)
    return element("td", shown, data_value=value, title=each, class_="number best" if best else "number", hidden=hidden)


def _runs(results: Results, row: Row, page: Path) -> Markup:
    links = [run_link(results, run, page) for run in row.runs]
    separated = joined(links[0], *(joined(" ", link) for link in links[1:]))
    if len(links) <= MOST_LINKS:
        return separated
    return element("details", element("summary", f"{len(links)} runs"), separated)
