"""Selective copying (Gu & Dao, 2023, Mamba, section 4.1.1): remember what matters among what does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.tasks.task import Draw, Task, Tokens, at_least


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """Data tokens at random places among noise, then as many markers, at which the data are asked for in order."""

    whole_answers: ClassVar[bool] = True
    size_option: ClassVar[str] = "length"

    kind: Literal["selective_copying"] = "selective_copying"
    alphabet: int = 16
    """Tokens: 0 is noise, the last one is the marker, and those between are data."""
    length: int = 256
    """Places of data and noise, in front of the markers."""
    data_tokens: int = 16

    def check(self) -> None:
        at_least(3, alphabet=self.alphabet)
        at_least(1, data_tokens=self.data_tokens)
        if self.length < self.data_tokens:
            raise ConfigError(f"length={self.length} has no room for data_tokens={self.data_tokens}")

    @property
    def vocab_size(self) -> int:
        return self.alphabet

    @property
    def sequence_length(self) -> int:
        return self.length + self.data_tokens

    def at(self, size: int) -> SelectiveCopying:
        return replace(self, length=size, eval_lengths=())

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        tokens, labels = np.zeros(self.sequence_length, np.int64), np.full(self.sequence_length, IGNORED, np.int64)
        data = 1 + draw.randint(self.alphabet - 2, size=self.data_tokens, dtype=np.int64)
        tokens[np.sort(draw.choice(self.length, self.data_tokens, replace=False))] = data
        tokens[self.length :], labels[self.length :] = self.alphabet - 1, data
        return tokens, labels
