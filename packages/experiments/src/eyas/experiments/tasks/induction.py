"""Induction heads (Gu & Dao, 2023, Mamba, section 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.tasks.task import Draw, Task, Tokens, at_least


@dataclass(frozen=True, kw_only=True)
class Induction(Task):
    """... S M ... S, and M is asked for: S, token 0, stands once early among other tokens, and at the end."""

    kind: Literal["induction"] = "induction"
    vocab_size: int = 16
    """Tokens, S among them."""
    sequence_length: int = 256
    prefix: int | None = 10
    """S stands for the first time at one of so many places at the front; null for the first half."""

    def check(self) -> None:
        at_least(2, vocab_size=self.vocab_size)
        at_least(3, sequence_length=self.sequence_length)
        if self.prefix is not None and not 1 <= self.prefix <= self.sequence_length - 2:
            raise ConfigError(
                f"prefix={self.prefix} must leave room for M and the last token of sequence_length="
                f"{self.sequence_length}; choose 1 to {self.sequence_length - 2}, or null"
            )

    def at(self, size: int) -> Induction:
        return replace(self, sequence_length=size, eval_lengths=())

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        tokens = 1 + draw.randint(self.vocab_size - 1, size=self.sequence_length, dtype=np.int64)
        place = draw.randint(self.prefix or self.sequence_length // 2)
        tokens[[place, -1]] = 0
        labels = np.full(self.sequence_length, IGNORED, np.int64)
        labels[-1] = tokens[place + 1]
        return tokens, labels
