"""Fine-tuning: a run that starts from another run's weights has its model and its tokenizer too."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from eyas.core.errors import ConfigError
from eyas.core.schema import load
from eyas.experiments import run_folder
from eyas.experiments.compose import Job
from eyas.experiments.named_step import run_of, split_step, with_step
from eyas.experiments.upcycle import UpcycleConfig, upcycled
from eyas.parallel import checkpoint_folder

DECIDED = re.compile(r"[+~]*(model\b|layer@|data\.(tokenizer|vocab_size|end_of_document)\b)")
"""Overrides of what the other run decides."""


def with_start(job: Job) -> dict[str, Any]:
    """The job's configuration; with `start_from`, a run or a folder of runs, that run's model and, for text, its
    tokenizer stand in it, the model with mixtures of experts where it is to be upcycled, and the step of the weights:
    the latest one where none is named. Raises ConfigError where the command line asks for others, DataError where there
    is no run, CheckpointError where it has no weights."""
    start = job.config.get("start_from")
    if start is None:
        return job.config
    for override in job.overrides:
        if DECIDED.match(override):
            raise ConfigError(f"start_from={start} decides the model and the tokenizer; leave out {override}")
    name, step = split_step(str(start), "start_from")
    folder = run_folder.find(Path(name).resolve(), "start_from")
    if step is None:
        run_folder.check_checkpoint(folder, "start from; train it")
        step = max(checkpoint_folder.complete(folder / run_folder.CHECKPOINTS))
    run_folder.checkpoint_of_step(folder, step, "start from")
    named = with_step(folder, step)
    begun = run_folder.open_run(folder)
    upcycle = load(UpcycleConfig, job.config.get("upcycle") or {}, "upcycle")
    model = begun.model if upcycle.copies is None else upcycled(begun.model, upcycle)
    if job.config["data"]["source"] == "task":
        return {**job.config, "start_from": named, "model": model}
    if begun.drawn_task is not None:
        kind = begun.task["kind"]
        raise ConfigError(
            f"{folder} learnt task {kind}, which has no tokenizer to start from on text; add task={kind}, or another"
        )
    run_folder.check_text(folder, "tokenizer to start from")
    tokenizer = {
        "tokenizer": str(folder / run_folder.TOKENIZER),
        "vocab_size": begun.data.vocab_size,
        "end_of_document": begun.data.end_of_document,
    }
    data = {**(job.config.get("data") or {}), **tokenizer}
    return {**job.config, "start_from": named, "model": model, "data": data}


def keep_imported_files(start: str | None, folder: Path) -> None:
    """Copies what tells how an imported model reads, ends and exports, to the run that starts from it."""
    if start is not None and (kept := run_of(start) / run_folder.HUGGING_FACE).is_dir():
        shutil.copytree(kept, folder / run_folder.HUGGING_FACE)
