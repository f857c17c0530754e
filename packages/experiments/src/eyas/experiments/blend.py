"""Several texts in exact shares: which text the n-th sequence of a run is from is a function of n alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from eyas.experiments.data_config import DataConfig


def drawn(shares: Sequence[Fraction], number: int) -> tuple[int, int]:
    """The text that sequence 0, 1, ... of a run is from, and how many of it came before.

    Each text is spread as evenly among what the texts before it leave as whole numbers can be (Bresenham's line), so
    counts are exact wherever the shares of a number of sequences are whole numbers.
    """
    rest = Fraction(1)
    for index, share in enumerate(shares[:-1]):
        part = share / rest
        before = number * part.numerator // part.denominator
        if (number + 1) * part.numerator // part.denominator > before:
            return index, before
        number, rest = number - before, rest - share
    return len(shares) - 1, number


def blended(config: DataConfig, values: Mapping[str, float]) -> float:
    """The mean of what each text has, by its share."""
    return float(sum(float(text.share) * values[text.name] for text in config.texts))
