"""How well a model does, over the validation batches of text or the tests of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.experiments.batches import Batch
from eyas.experiments.task_batches import TaskTests
from eyas.parallel.engine import Engine


class Validation(Protocol):
    """One pass over validation batches."""

    def add(self, engine: Engine, microbatches: Sequence[Batch]) -> None:
        """Takes the next batch."""

    def metrics(self) -> dict[str, float]:
        """What came of all batches, the mean `loss` of a label among them."""


class TextValidation:
    """The mean loss."""

    def __init__(self) -> None:
        self.total, self.tokens = 0.0, 0

    def add(self, engine: Engine, microbatches: Sequence[Batch]) -> None:
        total, tokens = engine.evaluate(microbatches)
        self.total, self.tokens = self.total + total, self.tokens + tokens

    def metrics(self) -> dict[str, float]:
        return {"loss": self.total / self.tokens}


class TaskValidation:
    """A task's own metrics."""

    def __init__(self, tests: TaskTests) -> None:
        self.tests = tests
        self.grades: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []

    def add(self, engine: Engine, microbatches: Sequence[Batch]) -> None:
        graded = engine.grade(microbatches)
        self.grades.append((graded["loss"].cpu().numpy(), graded["hit"].cpu().numpy() > 0))

    def metrics(self) -> dict[str, float]:
        return self.tests.metrics(self.grades)
