"""One text as tokens on disk, and what there is to know of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from eyas.core.errors import DataError
from eyas.experiments.corpus import Corpus
from eyas.experiments.data_config import DataConfig
from eyas.experiments.fingerprint import FORMAT
from eyas.experiments.prepared import CARD, SPLITS, TOKENIZER, Lengths, SplitSize
from eyas.experiments.progress import Reporter
from eyas.experiments.tokenizer import number_of
from eyas.experiments.unigram import Counts, uniform_loss, unigram_loss

BATCH_CHARACTERS = 1 << 22
"""Text that is handed to the tokenizer at once; it uses all cores on it."""
QUANTILES = {"shortest": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9, "longest": 1.0}
SAMPLE_TOKENS = 100

Document = tuple[str, NDArray[Any], int | None]
"""The split, the tokens with the one that ends the document, and the bytes of the text where it was text."""


@dataclass
class _Tally:
    """What has been written of a split."""

    counts: Counts
    lengths: list[int] = field(default_factory=list)
    bytes: int | None = 0

    def add(self, tokens: NDArray[Any], size: int | None) -> None:
        np.add.at(self.counts, tokens, 1)
        self.lengths.append(len(tokens))
        self.bytes = None if self.bytes is None or size is None else self.bytes + size

    @property
    def size(self) -> SplitSize:
        return SplitSize(documents=len(self.lengths), tokens=sum(self.lengths), bytes=self.bytes)


def write_text(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None, directory: Path, reporter: Reporter
) -> None:
    """Writes tokens, tokenizer and card of a text to `directory`."""
    from eyas.parallel.indexed import TokenWriter

    if tokenizer is not None:
        tokenizer.save(str(directory / TOKENIZER))
    vocab_size, sample = config.vocab_size, ""
    tallies = {split: _Tally(np.zeros(vocab_size, dtype=np.int64)) for split in SPLITS}
    with ExitStack() as stack:
        writers = {split: stack.enter_context(TokenWriter(directory / split, vocab_size)) for split in SPLITS}
        for split, tokens, size in _documents(config, corpus, tokenizer, reporter):
            writers[split].add_document(tokens)
            tallies[split].add(tokens, size)
            if split == "train" and not sample:
                sample = _shown(tokens[:SAMPLE_TOKENS].tolist(), tokenizer)
    card = {
        "format": FORMAT,
        "origin": corpus.text.origin,
        "files": len(corpus.sources),
        "vocab_size": vocab_size,
        **{split: asdict(tally.size) for split, tally in tallies.items()},
        "uniform_loss": uniform_loss(vocab_size),
        "unigram_loss": unigram_loss(tallies["train"].counts, tallies["validation"].counts),
        "lengths": asdict(lengths(np.array(tallies["train"].lengths))),
        "sample": sample,
    }
    (directory / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def lengths(tokens: NDArray[np.int64]) -> Lengths:
    """How the lengths of documents are distributed."""
    found = np.quantile(tokens, list(QUANTILES.values()), method="lower")
    powers, counts = np.unique(np.log2(tokens).astype(np.int64), return_counts=True)
    return Lengths(
        mean=float(tokens.mean()),
        quantiles={name: int(value) for name, value in zip(QUANTILES, found, strict=True)},
        histogram={str(2 ** int(power)): int(count) for power, count in zip(powers, counts, strict=True)},
    )


def _shown(tokens: list[int], tokenizer: Tokenizer | None) -> str:
    return " ".join(map(str, tokens)) if tokenizer is None else tokenizer.decode(tokens)


def _documents(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None, reporter: Reporter
) -> Iterator[Document]:
    if corpus.text.tokenized:
        documents = reporter.each("Reading tokens", corpus.token_documents(), corpus.number)
        return _checked(corpus, documents, config.vocab_size)
    assert tokenizer is not None
    texts = reporter.each("Tokenizing", corpus.documents(), corpus.number)
    return _tokenized(tokenizer, config.end_of_document, texts)


def _checked(corpus: Corpus, documents: Iterable[tuple[str, NDArray[Any]]], vocab_size: int) -> Iterator[Document]:
    for split, tokens in documents:
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= vocab_size:
            remedy = f"set data.vocab_size={most + 1} or more" if least >= 0 else "make the token files again"
            raise DataError(
                f"{corpus.text.origin} has token {most if least >= 0 else least}, which is none of "
                f"data.vocab_size={vocab_size}; {remedy}"
            )
        yield split, tokens, None


def _tokenized(tokenizer: Tokenizer, end_of_document: str, documents: Iterable[tuple[str, str]]) -> Iterator[Document]:
    end = number_of(tokenizer, end_of_document)
    begins = tokenizer.encode("").ids != [end]  # what ends the document before need not begin the next one again
    for batch in _batched(documents):
        encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=begins)
        for (split, text), encoding in zip(batch, encodings, strict=True):
            yield split, np.array([*encoding.ids, end]), len(text.encode())


def _batched(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch
