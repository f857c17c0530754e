"""Losses that a model has to beat."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import DataError
from eyas.experiments.unigram import uniform_loss, unigram_loss

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=20)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_unigram_loss_is_the_mean_of_the_smoothed_log_probabilities(train: list[int]) -> None:
    tokens = [token for token in range(len(train)) for _ in range(token + 1)]
    probabilities = [(count + 1) / (sum(train) + len(train)) for count in train]
    expected = -sum(math.log(probabilities[token]) for token in tokens) / len(tokens)
    loss = unigram_loss(np.array(train), np.bincount(tokens))
    assert loss == pytest.approx(expected, rel=1e-12)


@given(counts)
def test_without_training_tokens_the_unigram_loss_is_uniform(validation: list[int]) -> None:
    validation[0] += 1
    loss = unigram_loss(np.zeros(len(validation), int), np.array(validation))
    assert loss == pytest.approx(uniform_loss(len(validation)), rel=1e-12)


def test_tokens_that_training_never_saw_cost_a_finite_loss() -> None:
    assert unigram_loss(np.array([99, 0]), np.array([0, 1])) == pytest.approx(math.log(101))


def test_no_validation_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="no validation tokens"):
        unigram_loss(np.array([1, 1]), np.array([0, 0]))
