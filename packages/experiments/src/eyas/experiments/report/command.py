"""`eyas report`: writes the page and prints the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from eyas.core.counted import counted
from eyas.core.errors import ConfigError, DataError, EyasError
from eyas.experiments.report.gather import gather
from eyas.experiments.report.page import html_page

PAGE = "report.html"
STYLES = {"passed": "green", "failed": "red", "undecided": "yellow"}


def write_report(directories: Sequence[Path], output: Path | None = None, *, strict: bool = False) -> Path:
    """Writes the report on the runs below the folders: into the folder where there is one, else beside us. `strict`
    raises EyasError, once all is written and said, unless there are pass rules and every one is passed."""
    path = output or (directories[0] / PAGE if len(directories) == 1 else Path(PAGE))
    gathered = gather(*directories)
    try:
        path.write_text(html_page(gathered, path), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); choose another place with --output") from error
    console = Console(highlight=False)
    for verdict in gathered.verdicts:
        line = Text.assemble((verdict.state, STYLES[verdict.state]), f"  {verdict.rule}  ({verdict.reason})")
        console.print(line, soft_wrap=True)
    console.print(Text(f"Report: {path}"), soft_wrap=True)
    open_ = [verdict for verdict in gathered.verdicts if verdict.state != "passed"]
    if strict and not gathered.verdicts:
        raise ConfigError("--strict asks what became of pass rules, and no run states one; see docs/report.md")
    if strict and open_:
        raise EyasError(f"{len(open_)} of {counted(len(gathered.verdicts), 'pass rule')} not passed")
    return path
