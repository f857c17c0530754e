"""The Markov language of the synthetic corpus: a distribution of the next symbol for every two before it."""

# M symbols

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eyas.experiments.tasks.task import Draw

Row = tuple[NDArray[np.float64], float]
"""Probabilities (M,) summed up from the front, and their entropy in nats."""


@dataclass(frozen=True)
class Language:
    """Rows are drawn when they are asked for first: all of M^2 would be seconds and 100 MB for 256 symbols."""

    symbols: int
    concentration: float
    seed: int
    rows: dict[tuple[int, int], Row] = field(default_factory=dict, repr=False, compare=False)

    def row(self, before: tuple[int, int]) -> Row:
        """The distribution behind two symbols."""
        found = self.rows.get(before)
        if found is None:
            draw = Draw(np.random.PCG64(np.random.SeedSequence([self.seed, *before])))
            probabilities = draw.dirichlet(np.full(self.symbols, self.concentration))
            positive = probabilities[probabilities > 0]
            found = probabilities.cumsum(), float(-(positive * np.log(positive)).sum())
            self.rows[before] = found
        return found


@lru_cache(maxsize=2)
def language(symbols: int, concentration: float, seed: int) -> Language:
    """The language of these options, with the rows that were drawn before."""
    return Language(symbols, concentration, seed)
