"""Sequences of whole documents, and windows that keep documents apart."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.packing import pack
from eyas.experiments.run_config import load_run
from eyas.experiments.windows import Packed, Sequences, Windows, batch_of
from eyas.parallel.indexed import TokenFile

PLACES = 8
document_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def source(lengths: list[int]) -> TokenFile:
    """Documents of these lengths, of the tokens 1, 2, 3 ..., so that a token tells its place."""
    return TokenFile(np.arange(1, sum(lengths) + 1), np.cumsum([0, *lengths[:-1]]))


def batch(sequences: Sequences) -> dict[str, np.ndarray]:
    """All sequences."""
    rows = [(sequences, number) for number in range(sequences.all)]
    found = batch_of(rows, sequences.sequence_length, isolate_documents=True)
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_only_layers_of_the_pattern_must_keep_documents_apart() -> None:
    layers = {
        "attn": {"kind": "attention", "num_heads": 2, "head_dim": 4},
        "moe": {"kind": "moe", "num_experts": 2, "top_k": 2, "intermediate_size": 8, "capacity_factor": 1.0},
    }
    model = {"hidden_size": 8, "vocab_size": 300, "layers": layers}
    data = {"documents": "isolated", "files": "*.txt", "vocab_size": 300}
    assert load_run({"model": {**model, "pattern": ["attn"]}, "data": data}).data.documents == "isolated"
    with pytest.raises(ConfigError, match="model.layers.moe .moe. cannot keep documents apart"):
        load_run({"model": {**model, "pattern": ["attn", "moe"]}, "data": data})


@given(st.lists(st.integers(1, PLACES), max_size=40))
def test_every_document_is_in_one_row_that_has_room(lengths: list[int]) -> None:
    rows = pack(np.array(lengths, np.int64), PLACES)
    assert sorted(document for row in rows for document in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[document] for document in row) <= PLACES for row in rows)


@given(st.lists(st.lists(st.integers(1, 63), max_size=6), min_size=1, max_size=30))
def test_documents_that_fill_rows_are_packed_into_few_more(cuts: list[list[int]]) -> None:
    pieces = [np.diff([0, *sorted(set(row)), 64]) for row in cuts]
    rows = pack(np.concatenate(pieces), 64)
    assert len(rows) <= 11 / 9 * len(pieces) + 1  # the bound of best-fit decreasing (Johnson 1974)


@given(document_lengths)
def test_every_token_but_the_first_of_its_document_is_a_label_once(lengths: list[int]) -> None:
    file = source(lengths)
    expected = set(file.tokens.tolist()) - {int(start) + 1 for start in file.document_starts}
    for sequences in (Packed(file, PLACES), Windows(file, PLACES, isolate_documents=True)):
        found = batch(sequences)
        labels = found["labels"][found["labels"] != IGNORED]
        assert Counter(labels.tolist()) == Counter(expected)
        assert (found["labels"] == found["tokens"] + 1)[found["labels"] != IGNORED].all()


@given(document_lengths)
def test_tokens_share_a_number_exactly_where_they_share_a_document(lengths: list[int]) -> None:
    file = source(lengths)
    for sequences in (Packed(file, PLACES), Windows(file, PLACES, isolate_documents=True)):
        found = batch(sequences)
        of = np.searchsorted(file.document_starts, found["tokens"] - 1, side="right")
        for numbers, owners, tokens in zip(found["documents"], of, found["tokens"], strict=True):
            real = tokens > 0
            same_number = numbers[real][:, None] == numbers[real]
            same_document = owners[real][:, None] == owners[real]
            contiguous = not (same_document & ~same_number).any()
            assert not (same_number & ~same_document).any()
            assert contiguous or max(lengths) > PLACES  # pieces of one long document may meet in a row
            assert not np.isin(numbers[~real], numbers[real]).any() or not isinstance(sequences, Packed)


@given(document_lengths)
def test_packing_cuts_no_document_that_fits(lengths: list[int]) -> None:
    file = source(lengths)
    tokens_NS = batch(Packed(file, PLACES))["tokens"]
    for start, length in zip(file.document_starts.tolist(), lengths, strict=True):
        if 1 < length <= PLACES + 1:
            (row,) = set(np.nonzero((tokens_NS > start) & (tokens_NS < start + length))[0].tolist())
            assert np.isin(np.arange(start + 1, start + length), tokens_NS[row]).all()
