"""Tokens on disk as numbered sequences: one stream cut into windows, or whole documents packed together."""
# N documents or pieces of them, B sequences of a batch, S tokens of a sequence

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyas.core.labels import IGNORED
from eyas.experiments.packing import pack
from eyas.parallel.indexed import TokenFile

Batch = dict[str, Tensor]
"""tokens (B, S), labels (B, S) and, where documents are isolated, documents (B, S), all int64."""
Row = NDArray[np.int64]
"""One of the three for one sequence, (S,)."""


class Sequences(ABC):
    """Numbered sequences of one text. Each token is a label in at most one of them."""

    def __init__(self, source: TokenFile, sequence_length: int, isolate_documents: bool) -> None:
        self.source = source
        self.sequence_length = sequence_length
        self.isolate_documents = isolate_documents

    @property
    @abstractmethod
    def whole(self) -> int:
        """Number of the sequences that training reads."""

    @property
    @abstractmethod
    def all(self) -> int:
        """Number of the sequences that validation reads, which leaves no token out."""

    @abstractmethod
    def fill(self, number: int, tokens: Row, labels: Row, documents: Row) -> None:
        """Writes a sequence into rows of zeros, of labels to ignore, and of zeros."""


class Windows(Sequences):
    """A token file cut into sequences: each token but the first is a label once, but for those that begin a document
    where documents are isolated, which nothing comes before."""

    def __init__(self, source: TokenFile, sequence_length: int, isolate_documents: bool = False) -> None:
        super().__init__(source, sequence_length, isolate_documents)

    @property
    def whole(self) -> int:
        """Number of full sequences."""
        return (len(self.source.tokens) - 1) // self.sequence_length

    @property
    def all(self) -> int:
        """Number of sequences, the short last one included."""
        return -(-(len(self.source.tokens) - 1) // self.sequence_length)

    def fill(self, number: int, tokens: Row, labels: Row, documents: Row) -> None:
        start = number * self.sequence_length
        text = self.source.tokens[start : start + self.sequence_length + 1]
        tokens[: len(text) - 1] = text[:-1]
        labels[: len(text) - 1] = text[1:]
        if self.isolate_documents:
            positions = np.arange(start, start + self.sequence_length + 1)
            numbers = np.searchsorted(self.source.document_starts, positions, side="right")
            documents[:] = numbers[:-1] - numbers[0]
            labels[numbers[1:] != numbers[:-1]] = IGNORED


class Packed(Sequences):
    """Whole documents side by side in sequences, none of which sees another. A document longer than a sequence is cut
    into pieces; each token but a document's first is a label once.

    Documents of N tokens take N - 1 places: the last one is only a label.
    """

    def __init__(self, source: TokenFile, sequence_length: int) -> None:
        super().__init__(source, sequence_length, isolate_documents=True)
        ends = np.append(source.document_starts[1:], len(source.tokens))
        self.starts, self.lengths = _pieces(source.document_starts, ends - 1, sequence_length)
        self.rows = pack(self.lengths, sequence_length)

    @property
    def whole(self) -> int:
        return len(self.rows)

    @property
    def all(self) -> int:
        return len(self.rows)

    def fill(self, number: int, tokens: Row, labels: Row, documents: Row) -> None:
        place = 0
        for document, piece in enumerate(self.rows[number]):
            start, length = self.starts[piece], self.lengths[piece]
            text, here = self.source.tokens[start : start + length + 1], slice(place, place + length)
            tokens[here], labels[here], documents[here] = text[:-1], text[1:], document
            place += int(length)
        documents[place:] = len(self.rows[number])


def batch_of(rows: Iterable[tuple[Sequences, int]], sequence_length: int, isolate_documents: bool) -> Batch:
    """The sequences by number; number -1 has no label."""
    chosen = list(rows)
    shape = (len(chosen), sequence_length)
    tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    documents = np.zeros(shape, np.int64)
    for row, (sequences, number) in enumerate(chosen):
        if number >= 0:
            sequences.fill(number, tokens[row], labels[row], documents[row])
    batch = {"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)}
    return batch | {"documents": torch.from_numpy(documents)} if isolate_documents else batch


def _pieces(starts: NDArray[np.int64], lasts: NDArray[np.int64], longest: int) -> tuple[Row, Row]:
    """Where pieces of at most `longest` tokens begin, and their lengths; the last token of a document is in none."""
    lengths = lasts - starts
    counts = -(-lengths // longest)
    first = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum())) - np.repeat(first, counts)
    begins = np.repeat(starts, counts) + within * longest
    return begins, np.minimum(longest, np.repeat(lasts, counts) - begins)
