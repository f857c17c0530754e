"""How well a model does, over the validation batches of text or the tests of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.experiments.blend import blended
from eyas.experiments.data_config import DataConfig
from eyas.experiments.task_batches import TaskTests
from eyas.experiments.windows import Batch
from eyas.parallel.engine import Engine


class Validation(Protocol):
    """One pass over validation batches."""

    def add(self, engine: Engine, microbatches: Sequence[Batch]) -> None:
        """Takes the next batch."""

    def metrics(self) -> dict[str, float]:
        """What came of all batches, the mean `loss` of a label among them."""


class TextValidation:
    """The mean loss of each text, and of all by their shares."""

    def __init__(self, names: Sequence[str], config: DataConfig) -> None:
        """`names` are those of the texts that the batches are from, in order."""
        self.names, self.config = names, config
        self.added = 0
        self.totals, self.tokens = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)

    def add(self, engine: Engine, microbatches: Sequence[Batch]) -> None:
        total, tokens = engine.evaluate(microbatches)
        name = self.names[self.added]
        self.totals[name], self.tokens[name] = self.totals[name] + total, self.tokens[name] + tokens
        self.added += 1

    def metrics(self) -> dict[str, float]:
        losses = {name: self.totals[name] / self.tokens[name] for name in self.totals}
        return {"loss": blended(self.config, losses)} | {f"loss_{name}": loss for name, loss in losses.items() if name}


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
