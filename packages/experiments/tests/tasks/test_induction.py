"""Induction heads, checked against their definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.labels import IGNORED
from eyas.experiments.task_batches import TRAINING, drawn
from eyas.experiments.tasks.induction import Induction

seeds = st.integers(0, 10**6)


@given(st.integers(2, 20), st.integers(3, 60), st.data(), seeds)
def test_induction_asks_for_what_followed_the_special_token(vocab, length, data, seed):
    prefix = data.draw(st.none() | st.integers(1, length - 2))
    task = Induction(vocab_size=vocab, sequence_length=length, prefix=prefix)
    tokens, labels = (rows[0] for rows in drawn(task, TRAINING, seed, [0]))
    first, last = np.flatnonzero(tokens == 0)
    assert last == length - 1 and first < (prefix or length // 2)
    assert np.flatnonzero(labels != IGNORED).tolist() == [last]
    assert labels[last] == tokens[first + 1] > 0


def test_induction_stands_anywhere_in_the_prefix():
    tokens, labels = drawn(Induction(), TRAINING, 0, range(4000))
    places = np.bincount((tokens == 0).argmax(1), minlength=10) / 4000
    assert len(places) == 10 and np.abs(places - 0.1).max() < 0.024  # 5 deviations
    answers = np.bincount(labels[:, -1], minlength=16) / 4000
    assert answers[0] == 0 and np.abs(answers[1:] - 1 / 15).max() < 0.02
