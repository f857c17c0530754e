"""What a task is: labelled sequences drawn from a seed, tests of it at several sizes, and a metric of its own."""

# N sequences, S sequence

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.metric_names import LENGTH

Tokens = NDArray[np.int64]
Draw = np.random.RandomState
"""Its streams are frozen for good (NEP 19), those of NumPy's newer generators are not."""


@dataclass(frozen=True)
class Graded:
    """A test and how a model did on it, each (N, S)."""

    tokens: Tokens
    labels: Tokens
    loss: NDArray[np.float64]
    """Nats; 0 where there is no label."""
    hit: NDArray[np.bool_]
    """Whether the model's first choice is the label."""

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Where there is a label."""
        return self.labels != IGNORED


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task that draws its own sequences; its fields are the options of the `task` group."""

    whole_answers: ClassVar[bool] = False
    """Whether a sequence has one answer of several tokens, of which all must be right."""
    size_option: ClassVar[str] = "sequence_length"
    """The option that says how long the sequences are."""

    eval_lengths: tuple[int, ...] = ()
    """Further values of the option that says how long sequences are, at which the task is tested too."""

    def __post_init__(self) -> None:
        self.check()
        if len({self.size, *self.eval_lengths}) <= len(self.eval_lengths):
            raise ConfigError(
                f"eval_lengths={list(self.eval_lengths)} names a length twice; {self.size_option}={self.size} is "
                "tested anyway"
            )
        for size in self.eval_lengths:
            try:
                self.at(size)
            except ConfigError as error:
                raise ConfigError(f"eval_lengths={size} cannot be tested: {error}") from error

    @abstractmethod
    def check(self) -> None:
        """Raises ConfigError for options that do not fit together."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens that there are."""

    @property
    @abstractmethod
    def sequence_length(self) -> int:
        """Tokens of a sequence, padding included."""

    @abstractmethod
    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        """A training sequence: tokens (S,) and labels (S,), IGNORED where nothing is asked."""

    @property
    def size(self) -> int:
        """The largest size that is trained on, and the first that is tested."""
        return int(getattr(self, self.size_option))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `metrics` tells."""
        return ("loss", "accuracy", "whole_accuracy") if self.whole_answers else ("loss", "accuracy")

    @abstractmethod
    def at(self, size: int) -> Self:
        """The task with all sequences of one size, for a test."""

    def tests(self) -> dict[str, Self]:
        """What is tested, by what stands behind the names of its metrics."""
        return {"": self.at(self.size)} | {f"{LENGTH}{size}": self.at(size) for size in self.eval_lengths}

    def metrics(self, graded: Graded) -> dict[str, float]:
        """What a test tells: mean loss and accuracy over labels, and the share of answers that are right as a whole."""
        labelled = graded.labelled
        found = {"loss": graded.loss[labelled].mean(), "accuracy": graded.hit[labelled].mean()}
        if self.whole_answers:
            found["whole_accuracy"] = (graded.hit | ~labelled).all(axis=1).mean()
        return {name: float(value) for name, value in found.items()}


def at_least(least: int, **options: int) -> None:
    """Raises ConfigError for the first option that is smaller."""
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"{name}={value} must be at least {least}")


def padded(tokens: Any, labels: Any, length: int, padding: int = 0) -> tuple[Tokens, Tokens]:
    """A short sequence (n,) at the full length, (S,), with nothing asked behind its end."""
    whole, asked = np.full(length, padding, np.int64), np.full(length, IGNORED, np.int64)
    whole[: len(tokens)], asked[: len(labels)] = tokens, labels
    return whole, asked
