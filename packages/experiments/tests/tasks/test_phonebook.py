"""Phonebooks are read back and their answers looked up."""

from hypothesis import given
from hypothesis import strategies as st

from eyas.core.labels import IGNORED
from eyas.experiments.task_batches import TRAINING, drawn
from eyas.experiments.tasks.phonebook import ASK, COLON, DIGIT, NAME, NEWLINE, Phonebook

seeds = st.integers(0, 10**6)


def parsed(lines):
    """Names and numbers of whole lines."""
    entries = {}
    for line in lines:
        assert line[1] == COLON and line[0] >= NAME and all(DIGIT <= digit < NAME for digit in line[2:])
        entries[line[0]] = line[2:]
    return entries


@given(
    st.sampled_from(["standard", "reversed"]),
    st.integers(3, 12),
    st.integers(0, 8),
    st.integers(1, 5),
    st.data(),
    seeds,
)
def test_a_phonebook_reads_back(order, fewest, more, digits, data, seed):
    most = fewest + more
    task = Phonebook(order=order, fewest=fewest, entries=most, names=data.draw(st.integers(most, 40)), digits=digits)
    tokens, labels = (rows[0].tolist() for rows in drawn(task, TRAINING, seed, [0]))
    asked = [place for place, label in enumerate(labels) if label != IGNORED]
    answer = [labels[place] for place in asked]
    ends = [place for place, token in enumerate(tokens) if token == NEWLINE]
    lines = [tokens[first:end] for first, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
    question = tokens[ends[-1] + 1 : asked[-1] + 1]
    if task.order == "standard":
        book, shown = parsed(lines[:-2]), parsed(lines[-2:])
        assert len(book) == len(lines) - 2
    else:
        book, shown = parsed(lines[3:]), parsed(lines[:2])
        assert len(book) == len(lines) - 3 and lines[2] == [ASK, question[1]]
        assert question.pop(0) == ASK
    assert task.fewest <= len(book) <= task.entries
    assert len(shown) == 2 and shown.items() <= book.items()
    name, colon, *given_digits = question
    assert colon == COLON and name in book and name not in shown
    assert answer == [*book[name], NEWLINE] and given_digits == book[name]
    assert asked == list(range(asked[0], asked[0] + task.digits + 1)) and tokens[asked[0]] == COLON
    assert not any(tokens[asked[-1] + 1 :])
