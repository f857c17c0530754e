"""A corpus whose entropy is known: an order-2 Markov language, among which keys come with their document's values."""

# M symbols, K keys, N sequences, S sequence

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eyas.core.errors import ConfigError
from eyas.experiments.tasks.language import Language, language
from eyas.experiments.tasks.task import Draw, Graded, Task, Tokens, at_least

START = (0, 0)
"""The symbols that a document's first ones are taken to follow."""


@dataclass(frozen=True, kw_only=True)
class SyntheticCorpus(Task):
    """A sequence is a document. At each step comes, with the probability that makes pairs `recall` of all tokens, one
    of K equally likely keys, and behind it its value: one of M equally likely symbols when the document has the key for
    the first time, and the same one ever after. Else comes a symbol by the last two that are no values."""

    kind: Literal["synthetic_corpus"] = "synthetic_corpus"
    sequence_length: int = 256
    symbols: int = 256
    """M; keys are further tokens."""
    keys: int = 32
    recall: float = 0.1
    """Share of keys and values among all tokens."""
    concentration: float = 0.1
    """alpha of the symmetric Dirichlet distribution that every row of the Markov chain is drawn from."""
    language_seed: int = 0
    """Of the Markov chain, which is the same for every `data.seed`."""

    def check(self) -> None:
        at_least(2, symbols=self.symbols)
        at_least(1, keys=self.keys, sequence_length=self.sequence_length)
        at_least(0, language_seed=self.language_seed)
        if not 0 < self.recall < 1:
            raise ConfigError(f"recall={self.recall} must be a share between 0 and 1")
        if not 0.02 <= self.concentration < math.inf:
            raise ConfigError(
                f"concentration={self.concentration} must be at least 0.02; rows of less would round to nothing"
            )

    @property
    def vocab_size(self) -> int:
        return self.symbols + self.keys

    @property
    def key_rate(self) -> float:
        """Probability of a key wherever none has just come: a pair is two tokens."""
        return self.recall / (2 - self.recall)

    @property
    def language(self) -> Language:
        """The Markov chain."""
        return language(self.symbols, self.concentration, self.language_seed)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("loss", "entropy", "excess_loss", "markov_excess_loss", "recall_excess_loss", "recall_accuracy")

    def at(self, size: int) -> SyntheticCorpus:
        return replace(self, sequence_length=size, eval_lengths=())

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        text = np.fromiter(self.document(draw), np.int64, self.sequence_length + 1)
        return text[:-1], text[1:]

    def document(self, draw: Draw) -> Iterator[int]:
        """Endless tokens."""
        values: dict[int, int] = {}
        before = START
        while True:
            if draw.random_sample() < self.key_rate:
                key = draw.randint(self.keys)
                yield self.symbols + key
                if key not in values:
                    values[key] = draw.randint(self.symbols)
                yield values[key]
            else:
                cumulative, _ = self.language.row(before)
                symbol = int(np.searchsorted(cumulative[:-1], draw.random_sample(), side="right"))
                before = before[1], symbol
                yield symbol

    def entropies(self, tokens_S: Tokens) -> Iterator[tuple[float, bool]]:
        """For the label of each token of a document: its entropy in nats given all tokens so far, and whether it is the
        value of a key that was there before."""
        which = _entropy(self.key_rate) + self.key_rate * math.log(self.keys)
        values: set[int] = set()
        before, key = START, -1
        for token in tokens_S.tolist():
            if key >= 0:
                values.add(key)
                key = -1
            elif token >= self.symbols:
                key = token
                yield (0.0, True) if key in values else (math.log(self.symbols), False)
                continue
            else:
                before = before[1], token
            yield which + (1 - self.key_rate) * self.language.row(before)[1], False

    def metrics(self, graded: Graded) -> dict[str, float]:
        """Losses beyond the entropy: over all labels, over values (recall), and over the others (Markov)."""
        known = [list(self.entropies(row)) for row in graded.tokens]
        entropy = np.array([[nats for nats, _ in row] for row in known])
        repeated = np.array([[again for _, again in row] for row in known])
        value = graded.tokens >= self.symbols
        excess = graded.loss - entropy
        return {
            "loss": _mean(graded.loss),
            "entropy": _mean(entropy),
            "excess_loss": _mean(excess),
            "markov_excess_loss": _mean(excess[~value]),
            "recall_excess_loss": _mean(excess[value]),
            "recall_accuracy": _mean(graded.hit[repeated]),
        }


def _entropy(p: float) -> float:
    """Of a coin that shows heads with probability p, in nats."""
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else math.nan
