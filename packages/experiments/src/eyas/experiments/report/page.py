"""The report as one HTML file: no other file, no network, no code but ours."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from datetime import datetime
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from eyas.experiments.report.gather import Gathered
from eyas.experiments.report.markup import Markup, element
from eyas.experiments.report.plots import plot_data, plots_section
from eyas.experiments.report.sections import (
    differences_section,
    environment_section,
    question_section,
    routers_section,
)
from eyas.experiments.report.table import results_section

SCRIPTS, STYLE = ("chart.js", "table.js", "page.js"), "page.css"


def html_page(gathered: Gathered, page: Path) -> str:
    """The whole file, with links that are right where it lies at `page`."""
    title = f"Runs of {gathered.results.directory.resolve().name}"
    sections = [
        question_section(gathered),
        results_section(gathered.results, page),
        plots_section(gathered),
        routers_section(gathered, page),
        differences_section(gathered),
        environment_section(gathered),
    ]
    script, style = "".join(map(_packaged, SCRIPTS)), _packaged(STYLE)
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src data:"
    data = json.dumps(plot_data(gathered), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    body = element(
        "body",
        _header(gathered, title),
        element("main", *sections),
        element("div", id="tip", role="status", hidden=True),
        Markup(f'<script type="application/json" id="data">{data}</script>'),
        Markup(f"<script>{script}</script>"),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _header(gathered: Gathered, title: str) -> Markup:
    runs = gathered.results.runs
    states = Counter(run.state for run in runs)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    about = f"{len(runs)} runs ({told}) · {datetime.now():%Y-%m-%d %H:%M}"
    theme = element("button", "Light or dark", type="button", id="theme", class_="action")
    return element("header", element("h1", title), theme, element("p", about, class_="note"))


def _packaged(name: str) -> str:
    return files("eyas.experiments.report").joinpath(name).read_text(encoding="utf-8")
