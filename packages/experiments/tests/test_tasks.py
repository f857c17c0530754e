"""Every task draws what its definition says, and what a rank trains on is its share of that."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.core.schema import defaults, dump
from eyas.experiments.batch_sizes import BatchRamp
from eyas.experiments.batches import Share
from eyas.experiments.task_batches import TEST, TRAINING, TaskBatches, TaskTests, drawn
from eyas.experiments.tasks import KINDS, Graded, load_task
from eyas.experiments.tasks.copying import Copying
from eyas.experiments.tasks.induction import Induction
from eyas.experiments.tasks.mqar import Mqar
from eyas.experiments.tasks.phonebook import Phonebook
from eyas.experiments.tasks.selective_copying import SelectiveCopying
from eyas.experiments.tasks.synthetic_corpus import SyntheticCorpus

SMALL = {
    "mqar": Mqar(vocab_size=32, sequence_length=24, pairs=3, eval_lengths=(48,), eval_pairs=(2,)),
    "copying": Copying(alphabet=5, shortest=9, longest=12, eval_lengths=(20,)),
    "phonebook": Phonebook(entries=5, fewest=4, names=30, digits=3, eval_lengths=(9,)),
    "phonebook reversed": Phonebook(entries=5, fewest=4, names=30, digits=3, order="reversed", eval_lengths=(9,)),
    "induction": Induction(sequence_length=24, eval_lengths=(40, 16)),
    "selective_copying": SelectiveCopying(alphabet=6, length=20, data_tokens=5, eval_lengths=(40,)),
    "synthetic_corpus": SyntheticCorpus(sequence_length=32, symbols=9, keys=2, recall=0.6, eval_lengths=(40,)),
}
tasks = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL.keys())
seeds = st.integers(0, 10**6)


def test_every_kind_is_tested():
    assert {task.kind for task in SMALL.values()} == KINDS.keys()


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


PINNED = {
    "mqar": "5388ffbb0337d5fe",
    "copying": "82d5df004ce566bf",
    "phonebook": "3ee5695686dbafab",
    "induction": "44c30d01617161dd",
    "selective_copying": "6e80337c1f56a938",
    "synthetic_corpus": "a1318145dd506920",
}
"""Changing one of these breaks the sequences of every run resumed or repeated."""


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_never_change(kind):
    tokens, labels = drawn(KINDS[kind](), TRAINING, 1234, [0, 1, 10**6])
    assert hashlib.sha256(np.stack([tokens, labels]).astype("<i8").tobytes()).hexdigest()[:16] == PINNED[kind]


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


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("copying", {"longest": 3, "shortest": 4}, "task.longest=3 is less than shortest=4"),
        ("phonebook", {"entries": 600}, "task.entries=600 must be from fewest=8 to names=512"),
        ("phonebook", {"fewest": 2}, "task.fewest=2 must be at least 3"),
        ("induction", {"sequence_length": 8}, "task.prefix=10 must leave room"),
        ("induction", {"eval_lengths": [8]}, "task.eval_lengths=8 cannot be tested: prefix=10"),
        ("selective_copying", {"length": 8}, "task.length=8 has no room for data_tokens=16"),
        ("synthetic_corpus", {"recall": 0}, "task.recall=0.0 must be a share between 0 and 1"),
        ("synthetic_corpus", {"concentration": 0.01}, "task.concentration=0.01 must be at least 0.02"),
        ("selective_copying", {"alphabet": 2}, "task.alphabet=2 must be at least 3"),
    ],
)
def test_what_a_task_cannot_do_is_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        load_task({"kind": kind} | options)
