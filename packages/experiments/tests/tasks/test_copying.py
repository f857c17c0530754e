"""Copying and selective copying, checked against their definitions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.labels import IGNORED
from eyas.experiments.task_batches import TEST, TRAINING, drawn
from eyas.experiments.tasks.copying import Copying
from eyas.experiments.tasks.selective_copying import SelectiveCopying

seeds = st.integers(0, 10**6)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 20), seeds)
def test_copying_asks_for_the_second_half_alone(alphabet, shortest, more, seed):
    task = Copying(alphabet=alphabet, shortest=shortest, longest=shortest + more)
    tokens, labels = (rows[0] for rows in drawn(task, TRAINING, seed, [0]))
    n = tokens.tolist().index(task.copy)
    assert shortest <= n <= shortest + more
    string = tokens[:n].tolist()
    assert all(1 <= symbol <= alphabet for symbol in string)
    assert tokens[n + 1 : 2 * n].tolist() == string[:-1]
    assert labels[n : 2 * n].tolist() == string
    assert not tokens[2 * n :].any() and (np.delete(labels, range(n, 2 * n)) == IGNORED).all()


def test_copying_trains_on_all_lengths_alike_and_tests_one():
    task = Copying(longest=8, shortest=3, eval_lengths=(16,))
    tokens, _ = drawn(task, TRAINING, 0, range(3000))
    lengths = np.bincount((tokens == task.copy).argmax(1), minlength=9) / 3000
    assert lengths[:3].sum() == 0 and np.abs(lengths[3:] - 1 / 6).max() < 0.034  # 5 deviations
    for name, n in {"": 8, "@16": 16}.items():
        tokens, labels = drawn(task.tests()[name], TEST, 0, range(20))
        assert ((tokens == task.copy).argmax(1) == n).all() and ((labels != IGNORED).sum(1) == n).all()


@given(st.integers(3, 20), st.integers(1, 12), st.integers(0, 40), seeds)
def test_selective_copying_asks_for_the_data_in_order(alphabet, count, noise, seed):
    task = SelectiveCopying(alphabet=alphabet, data_tokens=count, length=count + noise)
    tokens, labels = (rows[0] for rows in drawn(task, TRAINING, seed, [0]))
    body, markers = tokens[: task.length], tokens[task.length :]
    assert (markers == alphabet - 1).all() and len(markers) == count
    data = body[body > 0]
    assert len(data) == count and (data < alphabet - 1).all()
    assert labels[task.length :].tolist() == data.tolist() and (labels[: task.length] == IGNORED).all()
