"""Multi-query associative recall, checked against its definition."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.core.schema import load
from eyas.experiments.task_batches import TRAINING, drawn
from eyas.experiments.tasks import load_task
from eyas.experiments.tasks.mqar import Mqar

seeds = st.integers(0, 10**6)


mqars = st.builds(
    lambda pairs, more, vocab, filler: Mqar(
        vocab_size=2 * pairs + 2 + vocab, sequence_length=4 * pairs + more, pairs=pairs, filler=filler
    ),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(0, 40),
    st.sampled_from(["outside_keys", "uniform", "zeros"]),
)


@given(mqars, seeds)
def test_mqar_asks_each_key_once_for_its_value(task, seed):
    tokens, labels = (rows[0] for rows in drawn(task, TRAINING, seed, [0]))
    context, half = 2 * task.pairs, task.vocab_size // 2
    keys, values = tokens[:context:2].tolist(), tokens[1:context:2].tolist()
    assert len(set(keys)) == len(set(values)) == task.pairs
    assert all(1 <= key < half for key in keys) and all(half <= value < task.vocab_size for value in values)
    asked = np.flatnonzero(labels != IGNORED)
    assert all(place >= context and (place - context) % 2 == 0 for place in asked)
    assert sorted(tokens[asked]) == sorted(keys)
    assert dict(zip(tokens[asked].tolist(), labels[asked].tolist(), strict=True)) == dict(
        zip(keys, values, strict=True)
    )
    filler = np.delete(tokens, [*range(context), *asked])
    if task.filler == "zeros":
        assert not filler.any()
    if task.filler == "outside_keys":
        assert set(filler.tolist()).isdisjoint(keys)


def test_mqar_filler_is_uniform_outside_the_keys():
    task = Mqar(vocab_size=12, sequence_length=40, pairs=2, filler="outside_keys")
    found: Counter[int] = Counter()
    for number in range(4000):
        filled = task.fill(np.random.RandomState(number), np.array([5, 2]))
        found.update(filled.tolist())
    assert found.keys() == set(range(12)) - {5, 2}
    assert max(abs(count / found.total() - 0.1) for count in found.values()) < 0.004  # 5 deviations


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_mqar_asks_by_the_power_law(power):
    task = Mqar(vocab_size=16, sequence_length=22, pairs=1, power=power)
    _, labels = drawn(task, TRAINING, 1, range(20_000))
    gaps = (np.nonzero(labels != IGNORED)[1] - 2) // 2
    law = power * np.arange(1, 11) ** (power - 1)
    shares = np.bincount(gaps, minlength=10) / len(gaps)
    assert np.abs(shares - law / law.sum()).max() < 0.018  # 5 deviations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 17}, "task.pairs=17 and their questions need sequence_length=68 or more; it is 64"),
        (
            {"pairs": 8, "vocab_size": 16},
            "task.vocab_size=16 has 7 keys, fewer than pairs=8; set vocab_size=18",
        ),
        ({"power": 0}, "task.power=0.0 must be greater than 0"),
        ({"pairs": 0}, "task.pairs=0 must be at least 1"),
        ({"eval_lengths": [8]}, "task.eval_lengths=8 cannot be tested: pairs=8 and their questions need"),
        ({"eval_pairs": [200]}, "task.eval_pairs=200 cannot be tested: vocab_size=256 has 127 keys, fewer than pairs"),
        ({"eval_lengths": [128, 128]}, r"task.eval_lengths=\[128, 128\] names a length twice"),
        ({"kind": "mqa"}, "task.kind: unknown task 'mqa'; did you mean 'mqar'?"),
        ({"pair": 8}, "task: unknown option 'pair'; did you mean 'pairs'"),
    ],
)
def test_what_mqar_cannot_do_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_task({"kind": "mqar"} | options)


def test_mqar_is_tested_with_other_numbers_of_pairs():
    task = load(Mqar, {"eval_lengths": [128], "eval_pairs": [4, 32]})
    assert {name: (test.sequence_length, test.pairs) for name, test in task.tests().items()} == {
        "": (64, 8), "@128": (128, 8), "/4_pairs": (64, 4), "/32_pairs": (128, 32),
    }  # fmt: skip
    assert replace(task, eval_lengths=(), eval_pairs=()) == task.tests()[""]
