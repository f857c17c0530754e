"""Results as people and programs read them: a table on the terminal, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from statistics import mean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eyas.experiments.noise import RULE, best_rows
from eyas.experiments.results import Results, Row, deviation

MOST_OPTIONS = 8
MOST_METRICS = 8
MOST_METRICS_SHOWN, MOST_ASKED_SHOWN = 5, 8
"""On a terminal."""
SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))
LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def show(results: Results, console: Console) -> None:
    """Prints a table that fits a terminal, and what there is to say of runs without results below it."""
    metrics = results.leading(MOST_METRICS_SHOWN)[:MOST_ASKED_SHOWN]
    header, *body = _grid(results, "{} *".format, metrics)
    noted = header[-1] == "note"
    table = Table(title=Text(str(results.directory)), title_justify="left")
    for name in header[:-1] if noted else header:
        table.add_column(Text(name), overflow="fold")
    for line in body:
        table.add_row(*(Text(cell) for cell in (line[:-1] if noted else line)))
    console.print(table)
    for line in body:
        if noted and line[-1]:
            console.print(Text(f"{line[0]}: {line[-1]}", style="red"), soft_wrap=True)
    marked = any(best_rows(results, name) for name in metrics)
    for note in [f"* {RULE}"] * marked + _left_out(results, metrics):
        console.print(Text(note, style="dim"), soft_wrap=True)


def markdown(results: Results) -> str:
    """A Markdown table; what is best beyond the noise is bold."""
    header, *body = _grid(results, "**{}**".format, results.leading(MOST_METRICS), _for_markdown)
    table = "".join("| " + " | ".join(line) + " |\n" for line in [header, ["---"] * len(header), *body])
    return table + "".join(f"\n{note}\n" for note in _left_out(results, results.leading(MOST_METRICS)))


def latex(results: Results) -> str:
    """A LaTeX table, for the package booktabs; what is best beyond the noise is bold."""
    header, *body = _grid(results, r"\textbf{{{}}}".format, results.leading(MOST_METRICS), _for_latex)
    numbers = len(header) - 1 - len(results.options[:MOST_OPTIONS]) - (header[-1] == "note")
    columns = "l" * (len(header) - numbers - (header[-1] == "note")) + "r" * numbers + "l" * (header[-1] == "note")
    lines = [
        *(f"% {note}" for note in (RULE, *_left_out(results, results.leading(MOST_METRICS)))),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(line) + r" \\" for line in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(results: Results) -> str:
    """Every option and metric, unrounded, as CSV; deviations have columns of their own."""
    columns = [column for name in results.metrics for column in (name, f"{name} std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["runs", *results.options, *columns, "note"])
    for row in results.rows:
        numbers: list[float | None] = []
        for name in results.metrics:
            values = row.values(name)
            numbers += [mean(values) if values else None, deviation(values)]
        writer.writerow([_folders(results, row), *row.options, *numbers, row.remark])
    return text.getvalue()


def _grid(
    results: Results,
    mark: Callable[[str], str],
    metrics: Sequence[str],
    write: Callable[[str], str] = str,
) -> list[list[str]]:
    """The header and the rows, with columns only for what there is; `mark` is put on what is best beyond the noise,
    `write` says how a form writes text."""
    noted = any(row.remark for row in results.rows)
    best = {name: best_rows(results, name) for name in metrics}
    grid = [[write(name) for name in ("runs", *results.options[:MOST_OPTIONS], *metrics)] + ["note"] * noted]
    for row in results.rows:
        runs = _folders(results, row) if len(row.runs) == 1 else f"{len(row.runs)} runs"
        cells = [write(cell(row.values(name))) for name in metrics]
        cells = [mark(text) if row in best[name] else text for name, text in zip(metrics, cells, strict=True)]
        grid.append([write(runs), *map(write, row.options[:MOST_OPTIONS]), *cells] + [write(row.remark)] * noted)
    return grid


def _for_markdown(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", " ".join(text.splitlines()))


def _for_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.splitlines()))


def _left_out(results: Results, shown: Sequence[str]) -> list[str]:
    own = results.columns_of or {name: (name,) for name in results.metrics}
    more = {
        "options": results.options[MOST_OPTIONS:],
        "metrics": [name for name, columns in own.items() if not {*columns} <= {*shown}],
    }
    return [f"More {what}, in --csv: {', '.join(names)}" for what, names in more.items() if names]


def _folders(results: Results, row: Row) -> str:
    return " ".join(results.label(run) for run in row.runs)


def cell(values: Sequence[float]) -> str:
    """Mean and deviation in a few digits; empty for no values."""
    if not values:
        return ""
    middle, spread = mean(values), deviation(values)
    return short(middle) if spread is None else f"{short(middle)} ± {short(spread, digits=2, like=middle)}"


def short(value: float, digits: int = 4, like: float | None = None) -> str:
    """Four digits are enough to compare: 2.346, 12.35M; a deviation is told in the unit of the mean that it is `like`,
    and, as that is, without an exponent while it has no more than four digits before the point."""
    unit = value if like is None else like
    rounded = abs(float(f"{unit:.{digits if like is None else 4}g}"))  # 9999.7 is told as 10k
    for scale, suffix in SUFFIXES:
        if value and scale <= rounded < math.inf:
            return f"{_plain(value / (1e3 if suffix == 'k' else scale), digits)}{suffix}"
    return _plain(value, digits)


def _plain(value: float, digits: int) -> str:
    """So many digits that count: 770, not 7.7e+02."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if 10**digits <= abs(rounded) < 1e4 else f"{value:.{digits}g}"
