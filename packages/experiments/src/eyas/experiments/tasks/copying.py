"""Copying a string (Jelassi et al., 2024, Repeat After Me, section 4.1)."""

# n symbols of a string

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.tasks.task import Draw, Task, Tokens, at_least, padded


@dataclass(frozen=True, kw_only=True)
class Copying(Task):
    """s_1 ... s_n <copy> s_1 ... s_n, of which the second half is asked for; padding behind shorter strings."""

    whole_answers: ClassVar[bool] = True
    size_option: ClassVar[str] = "longest"

    kind: Literal["copying"] = "copying"
    alphabet: int = 26
    """Symbols; padding and <copy> are two tokens more."""
    longest: int = 32
    """Symbols of the longest string; any number up to it is as likely. Tests have strings of this length alone."""
    shortest: int = 1

    def check(self) -> None:
        at_least(1, alphabet=self.alphabet, shortest=self.shortest)
        if self.longest < self.shortest:
            raise ConfigError(f"longest={self.longest} is less than shortest={self.shortest}")

    @property
    def vocab_size(self) -> int:
        return self.alphabet + 2

    @property
    def copy(self) -> int:
        """The token between the halves; 0 is padding."""
        return self.alphabet + 1

    @property
    def sequence_length(self) -> int:
        return 2 * self.longest

    def at(self, size: int) -> Copying:
        return replace(self, shortest=size, longest=size, eval_lengths=())

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        n = draw.randint(self.shortest, self.longest + 1)
        string = 1 + draw.randint(self.alphabet, size=n, dtype=np.int64)
        tokens = np.concatenate([string, [self.copy], string[:-1]])
        labels = np.concatenate([np.full(n, IGNORED), string])
        return padded(tokens, labels, self.sequence_length)
