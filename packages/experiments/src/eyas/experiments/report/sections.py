"""The parts of the page beside its table and its plots."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eyas.experiments.report.gather import Gathered
from eyas.experiments.report.markup import Markup, element
from eyas.experiments.report.table import run_link
from eyas.experiments.results import beside_seed

MOST_SIDE_BY_SIDE = 8
"""Rows whose differences are told column by column; of more, the values are counted."""
MOST_VALUES, LONG_VALUE = 8, 90
"""Values that are counted, and their letters; the runs' own folders have all."""
SIGNS = {"passed": "✓", "failed": "✗", "undecided": "?"}


def question_section(gathered: Gathered) -> Markup | None:
    """What the runs were made for, and what became of the rules."""
    parts: list[Markup] = []
    for stated in gathered.stated:
        if stated.question:
            parts.append(element("p", stated.question, class_="question"))
        if stated.budget:
            parts.append(element("p", f"Budget: {stated.budget}", class_="note"))
    if gathered.verdicts:
        rows = [
            [
                element("span", f"{SIGNS[verdict.state]} {verdict.state}", class_=f"verdict {verdict.state}"),
                element("code", verdict.rule),
                verdict.reason,
            ]
            for verdict in gathered.verdicts
        ]
        parts.append(_table(["verdict", "rule", "because"], rows))
    return element("section", element("h2", "Question"), *parts, id="question") if parts else None


def differences_section(gathered: Gathered) -> Markup:
    """Options that vary, those too that follow from another."""
    results = gathered.results
    rows = [row for row in results.rows if row.runs[0].config]
    if not gathered.differences:
        body = element("p", "All runs have the same options, but for seeds.")
    elif len(rows) <= MOST_SIDE_BY_SIDE:
        heads = ["option", *(" ".join(results.label(run) for run in row.runs) for row in rows)]
        body = _table(
            heads, [[name, *(beside_seed(row.runs[0], name) for row in rows)] for name in gathered.differences]
        )
    else:
        runs = [run for run in results.runs if run.config]
        body = _table(
            ["option", "values (runs)"],
            [[name, _counted(Counter(beside_seed(run, name) for run in runs))] for name in gathered.differences],
        )
    return element("section", element("h2", "What varies"), element("div", body, class_="scroll"), id="differences")


def routers_section(gathered: Gathered, page: Path) -> Markup | None:
    """Load of the experts, one picture for each row."""
    if not gathered.routers:
        return None
    figures = [
        element(
            "figure",
            element("figcaption", run_link(gathered.results, run, page)),
            element(
                "img",
                src="data:image/svg+xml;base64," + b64encode(svg.encode()).decode(),
                alt=f"Load of each expert over the steps of {gathered.results.label(run)}",
            ),
        )
        for run, svg in gathered.routers
    ]
    note = "Of runs that differ in the seed alone, the first."
    if gathered.routers_left_out:
        note += f" {gathered.routers_left_out} more are left out; finished runs keep theirs as router.svg."
    return element(
        "section",
        element("h2", "Router load"),
        element("details", element("summary", f"{len(figures)} pictures"), *figures, open=len(figures) <= 4),
        element("p", note, class_="note"),
        id="routers",
    )


def environment_section(gathered: Gathered) -> Markup:
    """Where the runs were made; what was not the same everywhere is counted."""
    rows = [
        [name, next(iter(values)) if len(values) == 1 else _counted(Counter(values))]
        for name, values in gathered.environment.items()
    ]
    notes = [element("p", text, class_="note") for text in gathered.unread]
    return element("section", element("h2", "Environment"), _table(["", "value"], rows), *notes, id="environment")


def _counted(values: Counter[str]) -> str:
    told = [f"{_clipped(value) or 'none'} ({count})" for value, count in values.most_common(MOST_VALUES)]
    more = len(values) - MOST_VALUES
    return " · ".join(told) + (f" · and {more} other values" if more > 0 else "")


def _clipped(text: str) -> str:
    return text if len(text) <= LONG_VALUE else text[:LONG_VALUE] + "…"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    return element(
        "table",
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows)),
    )
