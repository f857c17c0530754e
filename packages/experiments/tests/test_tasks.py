"""Every task draws what its definition says, and what a rank trains on is its share of that."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.core.schema import defaults, dump, load
from eyas.experiments.batch_sizes import BatchRamp
from eyas.experiments.batches import Share
from eyas.experiments.task_batches import TEST, TRAINING, TaskBatches, TaskTests, drawn
from eyas.experiments.tasks import KINDS, Graded, load_task
from eyas.experiments.tasks.mqar import Mqar

SMALL = {
    "mqar": Mqar(vocab_size=32, sequence_length=24, pairs=3, eval_lengths=(48,), eval_pairs=(2,)),
}
tasks = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL.keys())
seeds = st.integers(0, 10**6)


def test_every_kind_is_tested():
    assert SMALL.keys() == KINDS.keys()


@tasks
@given(seeds, st.integers(0, 10**9), st.sampled_from([TRAINING, TEST]))
def test_a_sequence_has_the_sizes_that_the_task_states(task, seed, number, use):
    for test in [task, *task.tests().values()]:
        tokens, labels = drawn(test, use, seed, [number])
        assert tokens.shape == labels.shape == (1, test.sequence_length)
        assert tokens.dtype == labels.dtype == np.int64
        asked = labels[labels != IGNORED]
        assert asked.size
        for values in (tokens, asked):
            assert values.min() >= 0 and values.max() < task.vocab_size


@tasks
@given(seed=seeds, step=st.integers(0, 20), ranks=st.integers(1, 4), ramped=st.booleans())
def test_ranks_share_what_one_process_trains_on(task, seed, step, ranks, ramped):
    ramp = BatchRamp(start=ranks, increment=ranks, steps=5) if ramped else None
    size = 3 * ranks
    whole = TaskBatches(task, Share(size), 30, seed, ramp)[step]
    parts = [TaskBatches(task, Share(size, rank, ranks), 30, seed, ramp)[step] for rank in range(ranks)]
    for name in ("tokens", "labels"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))


@tasks
@given(seed=seeds)
def test_training_goes_on_where_it_was_left_and_never_repeats(task, seed):
    batches = TaskBatches(task, Share(4), 6, seed)
    everything = list(batches)
    later = TaskBatches(task, Share(4), 6, seed)
    later.load_state_dict(batches.state_dict() | {"batches_served": 4})
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(later, everything[4:], strict=True))
    rows = {tuple(row.tolist()) for batch in everything for row in batch["tokens"]}
    tests, _ = drawn(task, TEST, seed, range(24))
    assert len(rows) == 24 and rows.isdisjoint(map(tuple, tests.tolist()))
    other = TaskBatches(task, Share(4), 6, seed + 1)
    assert not torch.equal(other[0]["tokens"], everything[0]["tokens"])


@tasks
@given(sequences=st.integers(1, 7), ranks=st.integers(1, 2))
def test_tests_are_graded_once_each_whatever_the_share(task, sequences, ranks):
    size = 2 * ranks
    each = [list(TaskTests(task, Share(size, rank, ranks), sequences)) for rank in range(ranks)]
    tests = TaskTests(task, Share(size), sequences)
    assert all(len(batches) == len(tests) for batches in each)
    for name, test in task.tests().items():
        tokens, labels = tests.drawn[name]
        assert tokens.shape == (sequences, test.sequence_length)
    grades = []
    for batch in tests:
        labels = batch["labels"].numpy()
        hit = np.random.RandomState(labels.sum() % 1000).rand(*labels.shape) < 0.5
        grades.append((hit * 1.0, hit))
    batches = (torch.cat(parts) for parts in zip(*([b["tokens"] for b in rank] for rank in each), strict=True))
    assert all(torch.equal(a, b["tokens"]) for a, b in zip(batches, tests, strict=True))
    found = tests.metrics(grades)
    assert found.keys() == {f"{name}{test}" for test in task.tests() for name in task.metric_names}
    labels = np.concatenate([tests.drawn[""][1]])
    hit = np.concatenate([hit for _, hit in grades[: tests.each]])[:sequences]
    if "accuracy" in found:
        assert found["accuracy"] == pytest.approx(hit[labels != IGNORED].mean())


@tasks
def test_a_task_is_its_plain_data(task):
    assert load_task(dump(task)) == task
    assert load_task(defaults(type(task))) == type(task)()


@tasks
def test_all_right_is_an_accuracy_of_one(task):
    tokens, labels = drawn(task, TEST, 0, range(5))
    graded = Graded(tokens, labels, np.zeros(labels.shape), labels != IGNORED)
    found = task.metrics(graded)
    assert found.keys() == set(task.metric_names)
    assert all(value == 1 for name, value in found.items() if name.endswith("accuracy"))


@given(st.data())
def test_a_whole_answer_needs_every_token(data):
    class Whole(Mqar):
        whole_answers = True

    task = Whole(vocab_size=32, sequence_length=24, pairs=3)
    tokens, labels = drawn(task, TEST, data.draw(seeds), range(6))
    hit = np.array(data.draw(st.lists(st.booleans(), min_size=labels.size, max_size=labels.size))).reshape(labels.shape)
    right = [all(h for h, label in zip(*row, strict=True) if label != IGNORED) for row in zip(hit, labels, strict=True)]
    assert task.metrics(Graded(tokens, labels, hit * 0.0, hit))["whole_accuracy"] == np.mean(right)


# MQAR

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
        "": (64, 8), "_at_128": (128, 8), "_with_4_pairs": (64, 4), "_with_32_pairs": (128, 32),
    }  # fmt: skip
    assert replace(task, eval_lengths=(), eval_pairs=()) == task.tests()[""]
