"""`eyas eval`: a run's model on the tasks of lm-eval; what comes of it stands beside the run's other results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from eyas.core.errors import ConfigError, DataError
from eyas.core.nearest import unknown_name
from eyas.experiments import run_folder
from eyas.experiments.run_records import EVALUATIONS, read_evaluations

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

SEED = 1234
"""Of the choice of examples; lm-eval's own."""
INSTALL = "pip install 'eyas-experiments[eval]'"


def evaluate(
    folder: Path,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch: int = 8,
    longest: int | None = None,
) -> dict[str, Any]:
    """Asks the run's latest checkpoint the tasks and keeps what came of it in the run's eval.json, beside what was
    found of the same checkpoint before. Returns what came of these tasks: figures by task and metric.

    `include` is a folder with task files of the user's own, `shots` the examples before each question, `limit` the
    questions of each task, `longest` the tokens that are read at most. Raises ConfigError or DataError for what cannot
    be asked.
    """
    for name, value in (("--limit", limit), ("--batch", batch), ("--max-length", longest)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    if shots is not None and shots < 0:
        raise ConfigError(f"--shots={shots} must not be negative")
    if find_spec("lm_eval") is None:
        raise ConfigError(f"eyas eval asks the tasks of lm_eval, which is not installed; {INSTALL}")
    run_folder.check_text(folder, "text to be asked about")
    known = loaded(managed(tasks, include), tasks, shots)
    from eyas.experiments.eval.run_model import RunLM

    model = RunLM(folder, batch=batch, longest=longest)
    found = asked(model, known, limit)
    figures = {task: named(values) for task, values in found["results"].items()}
    settings = {
        task: {
            "version": found["versions"].get(task),
            "shots": found["n-shot"].get(task),
            "samples": found["n-samples"].get(task, {}).get("effective"),
            "limit": limit,
            "max_length": longest,
        }
        for task in figures
    }
    keep(folder, model.step, figures, settings)
    return figures


def print_evaluation(folder: Path, figures: Mapping[str, Mapping[str, float]]) -> None:
    """A row for each figure."""
    table = Table(title="lm-eval", title_justify="left")
    for heading in ("task", "metric", "value", "± error of the mean"):
        table.add_column(heading, justify="right" if heading[0] in "v±" else "left")
    for task, values in figures.items():
        for metric, value in values.items():
            if not metric.endswith("_stderr"):
                error = values.get(f"{metric}_stderr")
                table.add_row(task, metric, f"{value:.4f}", "" if error is None else f"{error:.2g}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Kept in {folder / EVALUATIONS}", soft_wrap=True, markup=False)


def managed(tasks: Sequence[str], include: Path | None) -> TaskManager:
    """What knows the tasks: the user's folder alone where it has all of them, because reading lm-eval's own fourteen
    thousand takes a while. Raises ConfigError for a task that neither has."""
    quieten()
    from lm_eval.tasks import TaskManager

    if include is not None:
        if not include.is_dir():
            raise DataError(f"there is no folder {include}; --include names a folder with task files")
        manager = TaskManager(include_path=str(include), include_defaults=False)
        if all(task in manager.all_tasks for task in tasks):
            return manager
    manager = TaskManager(include_path=None if include is None else str(include))
    for task in tasks:
        if task not in manager.all_tasks:
            raise ConfigError(f"--tasks: {unknown_name('task', task, manager.all_tasks)}")
    return manager


def loaded(manager: TaskManager, tasks: Sequence[str], shots: int | None) -> dict[str, Any]:
    """The tasks with their data and their examples. Raises DataError where the data cannot be had, ConfigError for a
    task that is fixed to no examples."""
    try:
        found = dict(manager.load(list(tasks)))
    except (OSError, ValueError) as error:  # what the datasets library raises without its hub, or for a missing file
        first = str(error).partition("\n")[0]
        raise DataError(f"--tasks={','.join(tasks)}: the data cannot be had ({first})") from error
    for name, task in found["tasks"].items():
        told = task.get_config("num_fewshot")
        if shots and told == 0:
            raise ConfigError(f"--shots={shots}, but task {name} is always asked without examples; leave it out")
        task.set_config("num_fewshot", value=(told or 0) if shots is None else shots)
        task.set_fewshot_seed(seed=SEED)
    return found


def asked(model: LM, tasks: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """What lm-eval finds."""
    from lm_eval import evaluate as ask

    with redirect_stderr(StringIO()):  # its progress bars; the model shows its own
        found = ask(lm=model, task_dict=tasks, limit=limit, log_samples=False)
    assert found is not None
    return dict(found)


def named(values: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval's `acc,none` and `exact_match,strict` as `acc` and `strict/exact_match`; numbers alone."""
    figures = {}
    for key, value in values.items():
        metric, _, filtered = key.partition(",")
        if filtered and isinstance(value, int | float):
            figures[metric if filtered == "none" else f"{filtered}/{metric}"] = float(value)
    return figures


def keep(folder: Path, step: int, figures: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Adds what was found of the checkpoint of a step to the run's eval.json; what was found of another goes."""
    before = read_evaluations(folder)
    if before.get("step") != step:
        before = {}
    run_folder.write_json(
        folder / EVALUATIONS,
        {
            "step": step,
            "lm_eval": version("lm_eval"),
            "tasks": {**before.get("tasks", {}), **settings},
            "metrics": {**before.get("metrics", {}), **figures},
        },
    )


def quieten() -> None:
    """lm-eval and the libraries it loads speak of themselves on every call; nothing of it is about what was asked."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    for name in ("lm_eval", "datasets", "evaluate", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
