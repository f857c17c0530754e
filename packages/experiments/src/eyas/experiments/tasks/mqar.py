"""Multi-query associative recall (Arora et al., 2023, Zoology, section 4; its `multiquery_ar`)."""

# D pairs of a sequence, V vocabulary

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.tasks.task import Draw, Task, Tokens, at_least


@dataclass(frozen=True, kw_only=True)
class Mqar(Task):
    """k1 v1 ... kD vD, and each key once more among filler, where its value is asked for."""

    kind: Literal["mqar"] = "mqar"
    vocab_size: int = 256
    """Keys come from the first half but token 0, values from the second."""
    sequence_length: int = 64
    pairs: int = 8
    """Of keys and values; at most a quarter of the sequence."""
    power: float = 0.01
    """a of the law p(i) ~ a i^(a-1), i from 1, of the place of two tokens behind the pairs where a key is asked for:
    near 0 mostly soon, 1 for uniformly."""
    filler: Literal["outside_keys", "uniform", "zeros"] = "outside_keys"
    """Tokens at other places: any but this sequence's keys; any, as in Zoology, which leaves a few questions that have
    two answers; or token 0."""
    eval_pairs: tuple[int, ...] = ()
    """Further numbers of pairs to test (`accuracy/32_pairs`), in sequences of four tokens a pair where
    sequence_length is less."""

    def check(self) -> None:
        at_least(1, pairs=self.pairs)
        at_least(4, sequence_length=self.sequence_length)
        if 4 * self.pairs > self.sequence_length:
            raise ConfigError(
                f"pairs={self.pairs} and their questions need sequence_length={4 * self.pairs} or more; it is "
                f"{self.sequence_length}"
            )
        if self.vocab_size // 2 - 1 < self.pairs:
            raise ConfigError(
                f"vocab_size={self.vocab_size} has {max(self.vocab_size // 2 - 1, 0)} keys, fewer than "
                f"pairs={self.pairs}; set vocab_size={2 * self.pairs + 2} or more"
            )
        if not self.power > 0:
            raise ConfigError(f"power={self.power} must be greater than 0")
        for pairs in self.eval_pairs:
            try:
                self.with_pairs(pairs)
            except ConfigError as error:
                raise ConfigError(f"eval_pairs={pairs} cannot be tested: {error}") from error

    def at(self, size: int) -> Mqar:
        return replace(self, sequence_length=size, eval_lengths=(), eval_pairs=())

    def with_pairs(self, pairs: int) -> Mqar:
        """The task with more or fewer pairs."""
        length = max(self.sequence_length, 4 * pairs)
        return replace(self, pairs=pairs, sequence_length=length, eval_lengths=(), eval_pairs=())

    def tests(self) -> dict[str, Mqar]:
        return super().tests() | {f"/{pairs}_pairs": self.with_pairs(pairs) for pairs in self.eval_pairs}

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        half, context = self.vocab_size // 2, 2 * self.pairs
        keys_D = 1 + draw.choice(half - 1, self.pairs, replace=False)
        values_D = half + draw.choice(self.vocab_size - half, self.pairs, replace=False)
        tokens = self.fill(draw, keys_D)
        tokens[:context:2], tokens[1:context:2] = keys_D, values_D
        slots = np.arange(1, (self.sequence_length - context) // 2 + 1)
        law = self.power * slots ** (self.power - 1)
        gaps_D = draw.choice(len(slots), self.pairs, replace=False, p=law / law.sum())
        labels = np.full(self.sequence_length, IGNORED, np.int64)
        tokens[context + 2 * gaps_D], labels[context + 2 * gaps_D] = keys_D, values_D
        return tokens, labels

    def fill(self, draw: Draw, keys_D: Tokens) -> Tokens:
        """A sequence of filler."""
        if self.filler == "zeros":
            return np.zeros(self.sequence_length, np.int64)
        if self.filler == "uniform":
            return draw.randint(self.vocab_size, size=self.sequence_length, dtype=np.int64)
        number = draw.randint(self.vocab_size - self.pairs, size=self.sequence_length, dtype=np.int64)
        skipped = np.sort(keys_D) - np.arange(self.pairs)  # the number from which on one more key is passed over
        return number + np.searchsorted(skipped, number, side="right")
