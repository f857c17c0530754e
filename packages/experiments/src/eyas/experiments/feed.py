"""What a run reads: text that was prepared, or what its task draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eyas.experiments import run_folder
from eyas.experiments.batches import BlendedValidation, Share, StepBatches, training_batches, validation_batches
from eyas.experiments.blend import blended
from eyas.experiments.run_config import RunConfig
from eyas.experiments.task_batches import TaskBatches, TaskTests
from eyas.experiments.validation import TaskValidation, TextValidation, Validation


@dataclass(frozen=True)
class Feed:
    """What a run reads: batches for training and validation, and what a model has to beat on them."""

    training: StepBatches
    validation: BlendedValidation | TaskTests
    begin_validation: Callable[[], Validation]
    baselines: dict[str, float]


def feed_of(folder: Path, run: RunConfig, share: Share) -> Feed:
    """This rank's share of a run's batches."""
    steps, ramp, task = run.trainer.max_steps, run.trainer.batch_ramp, run.drawn_task
    if task is not None:
        assert run.data.validation_sequences is not None
        tests = TaskTests(task, share, run.data.validation_sequences)
        return Feed(TaskBatches(task, share, steps, run.data.seed, ramp), tests, partial(TaskValidation, tests), {})
    prepared = run_folder.read_data(folder)
    validation = validation_batches(run.data, prepared, share)
    unigram = blended(run.data, {name: text.unigram_loss for name, text in prepared.texts.items()})
    return Feed(
        training_batches(run.data, prepared, share, steps, ramp),
        validation,
        partial(TextValidation, validation.names, run.data),
        {"uniform_loss": prepared.uniform_loss, "unigram_loss": unigram},
    )
