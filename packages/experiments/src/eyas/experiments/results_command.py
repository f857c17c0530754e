"""`eyas results`: the table of a run or a multirun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rich.console import Console

from eyas.experiments.results import collect
from eyas.experiments.results_table import comma_separated, latex, markdown, show
from eyas.experiments.side_by_side import side_by_side

Form = Literal["table", "csv", "md", "latex"]


def print_results(*directories: Path, by_seed: bool = False, form: Form = "table") -> None:
    """Prints the runs in folders: as the experiment wants its tables, to read, in Markdown or in LaTeX; or as CSV with
    every option and metric, and a row for each configuration."""
    results = collect(*directories, by_seed=by_seed)
    match form:
        case "csv":
            sys.stdout.write(comma_separated(results))
        case "md":
            sys.stdout.write(markdown(side_by_side(results)))
        case "latex":
            sys.stdout.write(latex(side_by_side(results)))
        case "table":
            show(side_by_side(results), wide())


def wide() -> Console:
    """The terminal; where the output is none, as wide as tables want to be."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
