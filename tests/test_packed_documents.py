"""A document's loss does not depend on the documents beside it, in any mixer and on any layout."""

import numpy as np
import pytest
import torch
from models import MIXERS, falcon_h1, holding
from test_grading import grade_here

from eyas.core.labels import IGNORED
from eyas.core.model import load_model
from eyas.experiments.windows import Packed, Sequences, Windows, batch_of
from eyas.layers.model import HybridLM
from eyas.layers.testing import Trial
from eyas.parallel.indexed import TokenFile
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

LENGTH, VOCABULARY = 24, 50
TOLERANCE = 1e-9
"""Of a loss of about 4 in float64: the same sums, taken in another order."""
LAYOUTS = {
    "one process": Layout(),
    "tensor and context": Layout(tensor=2, sequence=True, context=2),
    "contiguous context": Layout(context=4, context_order="contiguous"),
    "pipeline and data": Layout(pipeline=2, data=2),
}


def documents(seed: int, lengths: list[int]) -> list[np.ndarray]:
    """Documents of random tokens."""
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCABULARY, length) for length in lengths]


def token_file(parts: list[np.ndarray]) -> TokenFile:
    return TokenFile(np.concatenate(parts), np.cumsum([0, *(len(part) for part in parts[:-1])]))


MINE = documents(0, [5, 9, 12, 17])
NEIGHBOURS = [documents(1, [3, 8, 2, 21, 6, 4]), documents(2, [11, 7, 19, 2])]


def losses(sequences: Sequences, trial: Trial, layout: Layout) -> dict[tuple[int, ...], list[float]]:
    """The loss of each token of each of MINE, by the document."""
    count = -(-sequences.all // 4) * 4
    rows = [(sequences, number if number < sequences.all else -1) for number in range(count)]
    batch = batch_of(rows, LENGTH, sequences.isolate_documents)
    graded = pool(layout.processes).run(grade_here, trial, layout, batch)[0]["loss"]
    flat = batch["tokens"].flatten().tolist()
    real = (batch["labels"] != IGNORED).flatten().tolist()
    found = {}
    for document in MINE:
        inputs = document[:-1].tolist()
        (start,) = [
            index
            for index in range(len(flat) - len(inputs) + 1)
            if flat[index : index + len(inputs)] == inputs and all(real[index : index + len(inputs)])
        ]
        found[tuple(document.tolist())] = graded.flatten()[start : start + len(inputs)].tolist()
    return found


def alone(trial: Trial) -> dict[tuple[int, ...], list[float]]:
    """The losses of documents that are sequences of their own."""
    return {tuple(document.tolist()): loss_alone(trial, document) for document in MINE}


def loss_alone(trial: Trial, row: np.ndarray) -> list[float]:
    """The loss of each token of a sequence by itself, in this process."""
    model = HybridLM(load_model(trial.model)).double().initialise(trial.seed)
    tokens_BS = torch.from_numpy(row[None])
    with torch.no_grad():
        return model(tokens_BS[:, :-1], tokens_BS[:, 1:]).flatten().tolist()


def assert_apart(model: dict, layout: Layout) -> None:
    trial = Trial(model=model, microbatch=2, sequence_length=LENGTH)
    expected = alone(trial)
    for neighbours in NEIGHBOURS:
        packed = Packed(token_file([*neighbours[:2], *MINE, *neighbours[2:]]), LENGTH)
        actual = losses(packed, trial, layout)
        for document, loss in expected.items():
            assert actual[document] == pytest.approx(loss, abs=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_packed_document_has_the_loss_that_it_has_alone(layout):
    assert_apart(falcon_h1(), layout)


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_so_it_has_with_every_mixer_where_ranks_share_sequences(mixer):
    assert_apart(holding(mixer), LAYOUTS["tensor and context"])


def test_documents_that_are_joined_do_depend_on_each_other():
    trial = Trial(model=falcon_h1())
    expected = np.array(loss_alone(trial, MINE[1]))
    for neighbours in NEIGHBOURS:
        joined = np.array(loss_alone(trial, np.concatenate([neighbours[0], MINE[1]]))[-len(expected) :])
        assert abs(joined - expected).max() > 1e-4


def test_windows_that_isolate_documents_ask_for_no_token_of_the_next():
    batch = batch_of([(Windows(token_file(MINE), LENGTH, isolate_documents=True), 0)], LENGTH, True)
    ends = np.cumsum([len(document) for document in MINE])[:2] - 1
    assert batch["labels"][0, ends].tolist() == [IGNORED] * 2
