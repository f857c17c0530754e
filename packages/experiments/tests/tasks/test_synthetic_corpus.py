"""The synthetic corpus has the distribution that its definition says, and the entropy that it states."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.experiments.task_batches import TRAINING, drawn
from eyas.experiments.tasks import Graded
from eyas.experiments.tasks.synthetic_corpus import SyntheticCorpus

seeds = st.integers(0, 10**6)


def joint(task, length):
    """Probability of every document of some tokens, by the definition: all values are drawn first."""
    rate = task.key_rate
    found = Counter()
    for table in itertools.product(range(task.symbols), repeat=task.keys):
        texts = {((), (0, 0), None): task.symbols**-task.keys}
        for _ in range(length):
            longer = Counter()
            for (text, before, key), p in texts.items():
                if key is not None:
                    longer[(*text, table[key]), before, None] += p
                    continue
                for new in range(task.keys):
                    longer[(*text, task.symbols + new), before, new] += p * rate / task.keys
                row = np.diff(task.language.row(before)[0], prepend=0.0)
                for symbol in range(task.symbols):
                    longer[(*text, symbol), (before[1], symbol), None] += p * (1 - rate) * row[symbol]
            texts = longer
        for (text, *_), p in texts.items():
            found[text] += p
    return found


@given(st.integers(2, 3), st.integers(1, 2), st.floats(0.1, 0.9), st.floats(0.05, 2.0), seeds)
def test_the_entropy_is_that_of_the_distribution(symbols, keys, recall, concentration, seed):
    task = SyntheticCorpus(
        symbols=symbols, keys=keys, recall=recall, concentration=concentration, language_seed=seed, sequence_length=3
    )
    whole = joint(task, 4)
    assert sum(whole.values()) == pytest.approx(1.0)
    for length in range(1, 4):
        shorter, longer = Counter(), Counter()
        for text, p in whole.items():
            shorter[text[:length]] += p
            longer[text[: length + 1]] += p
        for text, p in shorter.items():
            if p == 0:
                continue
            following = [longer[*text, token] / p for token in range(task.vocab_size)]
            entropy = -sum(q * math.log(q) for q in following if q > 0)
            *_, (stated, repeated) = task.entropies(np.array(text))
            assert stated == pytest.approx(entropy, abs=1e-9)
            assert not repeated or entropy == pytest.approx(0.0, abs=1e-9)


def test_documents_have_the_distribution():
    task = SyntheticCorpus(symbols=2, keys=2, recall=0.5, concentration=0.5, sequence_length=3)
    tokens, labels = drawn(task, TRAINING, 0, range(20_000))
    assert (tokens[:, 1:] == labels[:, :-1]).all()
    texts = Counter(map(tuple, np.concatenate([tokens, labels[:, -1:]], axis=1).tolist()))
    expected = joint(task, 4)
    assert texts.keys() <= {text for text, p in expected.items() if p > 0}
    assert max(abs(texts[text] / 20_000 - p) for text, p in expected.items()) < 0.018  # 5 deviations at most


def test_pairs_are_the_share_of_the_tokens_that_is_asked_for():
    task = SyntheticCorpus(symbols=4, keys=3, sequence_length=500)
    tokens, _ = drawn(task, TRAINING, 0, range(100))
    assert (tokens >= 4).mean() == pytest.approx(0.05, abs=0.005)
    rows = [task.language.row(before)[0] for before in itertools.product(range(4), repeat=2)]
    assert len({tuple(row) for row in rows}) == 16 and all(row[-1] == pytest.approx(1.0) for row in rows)


def test_rows_are_dirichlet():
    task = SyntheticCorpus()
    rows = [task.language.row((0, after)) for after in range(256)]
    p = np.diff([cumulative for cumulative, _ in rows], axis=1, prepend=0.0)
    assert (p**2).sum(1).mean() == pytest.approx(1.1 / 26.6, rel=0.05)  # (1 + alpha) / (1 + M alpha)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    assert [entropy for _, entropy in rows] == pytest.approx((-p * logs).sum(1).tolist())


def test_excess_is_what_a_model_loses_beyond_the_entropy():
    task = SyntheticCorpus(symbols=9, keys=2, recall=0.6, sequence_length=50)
    tokens, labels = drawn(task, TRAINING, 3, range(20))
    entropy = np.array([[nats for nats, _ in task.entropies(row)] for row in tokens])
    value = tokens >= 9
    found = task.metrics(Graded(tokens, labels, entropy + np.where(value, 0.25, 0.5), np.zeros(labels.shape, bool)))
    assert found["markov_excess_loss"] == pytest.approx(0.5) and found["recall_excess_loss"] == pytest.approx(0.25)
    assert found["excess_loss"] == pytest.approx(0.5 - 0.25 * value.mean())
    assert found["loss"] - found["entropy"] == pytest.approx(found["excess_loss"])


def test_recall_accuracy_counts_the_values_of_known_keys():
    task = SyntheticCorpus(symbols=9, keys=2, sequence_length=8)
    tokens = np.array([[9, 4, 10, 4, 9, 4, 3, 9]])
    labels = np.array([[4, 10, 4, 9, 4, 3, 9, 4]])
    for place, accuracy in {0: 0.0, 2: 0.0, 4: 0.5, 7: 0.5}.items():
        hit = np.arange(8)[None] == place
        assert task.metrics(Graded(tokens, labels, hit * 0.0, hit))["recall_accuracy"] == accuracy
