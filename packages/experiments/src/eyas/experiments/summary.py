"""What a finished run prints: losses side by side, a sample, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eyas.core.counted import counted
from eyas.experiments import run_folder
from eyas.experiments.data_config import DataConfig
from eyas.experiments.results_command import wide
from eyas.experiments.run_config import RunConfig
from eyas.experiments.tasks import Task


def print_summary(folder: Path, run: RunConfig) -> None:
    """Prints the outcome of the run in `folder`, with a sample where one is asked for."""
    metrics = run_folder.read_metrics(folder)
    console = Console(highlight=False)
    task = run.drawn_task
    after = f"after {counted(metrics['steps'], 'step')}"
    if task is None:
        print_losses(console, f"{run.model.get('name', 'model')} {after}", run.data, metrics)
    else:
        wide().print(tests_table(task, f"Tests of task {run.task['kind']} {after}", metrics))
    options = run.sample
    if options.prompt is not None:
        from eyas.experiments.generate import generate
        from eyas.layers.sampling import Sampling

        console.print(f"\nSample, continuing {options.prompt!r}:")
        sampling = Sampling(temperature=options.temperature, top_k=options.top_k)
        (text,) = generate(folder, [options.prompt], tokens=options.tokens, sampling=sampling).texts
        console.print(text, markup=False)
        console.print()
    if (folder / run_folder.ROUTERS).exists():
        console.print(f"Load and balance of its experts: {folder / run_folder.ROUTERS}", soft_wrap=True)
    console.print(f"Run folder: {folder}", soft_wrap=True)


def print_losses(console: Console, model: str, data: DataConfig, metrics: Mapping[str, float]) -> None:
    """A text model's loss beside those that it has to beat, and its loss on each text of a blend."""
    table = Table(title="Loss on the validation files (nats per token)", title_justify="left")
    for heading in ("uniform", "unigram", model):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{metrics[name]:.4f}" for name in ("uniform_loss", "unigram_loss", "validation_loss")))
    console.print(table)
    if data.blend is not None:
        each = (f"{text.name} {metrics[f'validation_loss_{text.name}']:.4f}" for text in data.texts)
        console.print(f"of each text: {', '.join(each)}", soft_wrap=True)
    gain = 1 - metrics["validation_loss"] / metrics["unigram_loss"]
    console.print(f"{abs(gain):.1%} {'below' if gain >= 0 else 'above'} the unigram cross-entropy")


def tests_table(task: Task, title: str, metrics: Mapping[str, float]) -> Table:
    """A row for each test, a column for each metric."""
    table = Table(title=title, title_justify="left")
    for heading in ("test", *task.metric_names):
        table.add_column(heading, justify="right")
    for test in task.tests():
        name = test.strip("/").replace("_", " ") or f"{task.size_option} {task.size}"
        stored = (f"{metric}{test}" if test or metric != "loss" else "validation_loss" for metric in task.metric_names)
        table.add_row(name, *(f"{metrics[metric]:.4f}" for metric in stored))
    return table
