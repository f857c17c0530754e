"""Results as people and programs read them: a table on the terminal, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import mean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eyas.experiments.results import Results, Row, deviation

MOST_OPTIONS = 8
MOST_METRICS = 8
MOST_METRICS_SHOWN = 5
SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))


def show(results: Results, console: Console) -> None:
    """Prints a table that fits a terminal, and what there is to say of runs without results below it."""
    header, *body = _grid(results, MOST_METRICS_SHOWN)
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
    for note in _left_out(results, MOST_METRICS_SHOWN):
        console.print(Text(note, style="dim"), soft_wrap=True)


def markdown(results: Results) -> str:
    """A Markdown table."""
    header, *body = _grid(results)
    lines = [header, ["---"] * len(header), *body]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return table + "".join(f"\n{note}\n" for note in _left_out(results))


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


def _grid(results: Results, most_metrics: int = MOST_METRICS) -> list[list[str]]:
    """The header and the rows, with columns only for what there is."""
    noted = any(row.remark for row in results.rows)
    metrics = results.metrics[:most_metrics]
    grid = [["runs", *results.options[:MOST_OPTIONS], *metrics] + ["note"] * noted]
    for row in results.rows:
        runs = _folders(results, row) if len(row.runs) == 1 else f"{len(row.runs)} runs"
        cells = [_cell(row.values(name)) for name in metrics]
        grid.append([runs, *row.options[:MOST_OPTIONS], *cells] + [row.remark] * noted)
    return grid


def _left_out(results: Results, most_metrics: int = MOST_METRICS) -> list[str]:
    more = {"options": results.options[MOST_OPTIONS:], "metrics": results.metrics[most_metrics:]}
    return [f"More {what}, in --csv: {', '.join(names)}" for what, names in more.items() if names]


def _folders(results: Results, row: Row) -> str:
    names = [run.path.relative_to(results.directory).as_posix() for run in row.runs]
    return " ".join(run.path.name if name == "." else name for name, run in zip(names, row.runs, strict=True))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = deviation(values)
    return _short(mean(values)) if spread is None else f"{_short(mean(values))} ± {_short(spread, digits=2)}"


def _short(value: float, digits: int = 4) -> str:
    """Four digits are enough to compare: 2.346, 12.35M."""
    for scale, suffix in SUFFIXES:
        if abs(value) >= scale:
            unit = 1e3 if suffix == "k" else scale
            return f"{value / unit:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"
