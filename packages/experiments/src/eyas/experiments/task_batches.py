"""Batches of what a task draws. A sequence is a function of the seed and its number alone, whatever the layout."""

# N sequences, S sequence

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from eyas.core.labels import IGNORED
from eyas.experiments.batch_sizes import BatchRamp
from eyas.experiments.batches import Share, StepBatches
from eyas.experiments.tasks import Graded, Task
from eyas.experiments.tasks.task import Draw, Tokens
from eyas.experiments.windows import Batch

TRAINING, TEST = 0, 1
"""What a seed is used for, so that no test repeats the training."""
TEST_SEED = 0
"""The same tests for every run of a task."""


def drawn(task: Task, use: int, seed: int, numbers: Iterable[int]) -> tuple[Tokens, Tokens]:
    """The tokens and the labels (N, S) of a task's sequences by their numbers."""
    streams = (np.random.SeedSequence([seed, use, int(number)]) for number in numbers)
    rows = [task.sequence(Draw(np.random.PCG64(stream))) for stream in streams]
    tokens, labels = zip(*rows, strict=True)
    return np.stack(tokens), np.stack(labels)


class TaskBatches(StepBatches):
    """Training batches of a task: every sequence is drawn anew."""

    def __init__(self, task: Task, share: Share, steps: int, seed: int, ramp: BatchRamp | None = None) -> None:
        super().__init__(share, steps, seed, ramp)
        self.task = task

    def __getitem__(self, step: int) -> Batch:
        tokens, labels = drawn(self.task, TRAINING, self.seed, self.share.of(self.numbers(step)))
        return {"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)}


class TaskTests:
    """All tests of a task one after the other, as this rank's share of each global batch.

    The last batch of a test is filled up with its last sequence, which is graded once.
    """

    def __init__(self, task: Task, share: Share, sequences: int) -> None:
        self.tests: Mapping[str, Task] = task.tests()
        self.share, self.sequences = share, sequences
        self.each = -(-sequences // share.global_batch)
        """Batches of a test."""

    def __len__(self) -> int:
        return self.each * len(self.tests)

    def __iter__(self) -> Iterator[Batch]:
        size = self.share.global_batch
        for tokens, labels in self.drawn.values():
            for first in range(0, self.each * size, size):
                rows = self.share.of(np.minimum(np.arange(first, first + size), self.sequences - 1))
                yield {"tokens": torch.from_numpy(tokens[rows]), "labels": torch.from_numpy(labels[rows])}

    @cached_property
    def drawn(self) -> dict[str, tuple[Tokens, Tokens]]:
        """Tokens and labels of each test, whole."""
        return {name: drawn(task, TEST, TEST_SEED, range(self.sequences)) for name, task in self.tests.items()}

    def metrics(self, grades: list[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> dict[str, float]:
        """What the tests tell, from the losses and hits of every global batch in order."""
        found: dict[str, float] = {}
        for index, (name, task) in enumerate(self.tests.items()):
            mine = grades[index * self.each : (index + 1) * self.each]
            loss, hit = (np.concatenate(part)[: self.sequences] for part in zip(*mine, strict=True))
            tokens, labels = self.drawn[name]
            told = task.metrics(Graded(tokens, labels, loss, hit & (labels != IGNORED)))
            found |= {f"{metric}{name}": value for metric, value in told.items()}
        return found
