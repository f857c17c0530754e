"""Losses that a model has to beat: knowing nothing, and knowing how often each token comes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eyas.core.errors import DataError

Counts = NDArray[np.int64]
"""How often each token of the vocabulary occurs."""


def uniform_loss(vocab_size: int) -> float:
    """Nats per token of a model for which all tokens are alike: ln V."""
    return math.log(vocab_size)


def unigram_loss(train: Counts, validation: Counts) -> float:
    """Nats per validation token of a model that knows the training frequencies, each count raised by one (Laplace)."""
    if validation.sum() == 0:
        raise DataError("there are no validation tokens to measure a unigram loss on; add validation documents")
    log_probabilities = np.log(train + 1.0) - math.log(train.sum() + train.size)
    return float(-(validation @ log_probabilities) / validation.sum())
