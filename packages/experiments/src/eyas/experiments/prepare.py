"""From text to tokens on disk, once: later runs with the same text find them in the cache."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from eyas.core.errors import ConfigError, DataError
from eyas.experiments.corpus import Corpus, DataConfig, Source, check, find_files
from eyas.experiments.prepared import CARD, SPLITS, Prepared, SplitSize, load_prepared
from eyas.experiments.progress import Reporter
from eyas.experiments.tokenizer import entries, load_tokenizer, number_of, train_tokenizer
from eyas.experiments.unigram import Counts, uniform_loss, unigram_loss

FORMAT = 1
"""Raised when prepared data changes for the same text and options."""
BATCH_CHARACTERS = 1 << 22
"""Text that is handed to the tokenizer at once; it uses all cores on it."""


def prepare(config: DataConfig) -> Prepared:
    """Tokenizes the corpus, or finds it tokenized; safe to call from several processes at once."""
    sources = find_files(config)
    directory = config.cache_folder / "data" / fingerprint(config, sources)
    if not (directory / CARD).is_file():
        _build(check(config), directory)
    prepared = load_prepared(directory)
    for split in SPLITS:
        tokens = getattr(prepared, split).tokens
        if tokens <= config.sequence_length:
            raise DataError(
                f"{config.origin} gives {tokens} {split} tokens, fewer than one sequence of "
                f"data.sequence_length={config.sequence_length} and its last label; shorten it or add text"
            )
    return prepared


def fingerprint(config: DataConfig, sources: Iterable[Source]) -> str:
    """The name under which a corpus is cached: its contents, and the options that decide its tokens."""
    digest = hashlib.sha256(json.dumps({"format": FORMAT, **_options(config)}, sort_keys=True).encode())
    if config.tokenizer is not None:
        digest.update(f"{config.end_of_document}\0{given_tokenizer(config).to_str()}\0".encode())
    for source in sources:
        try:
            with source.path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {source.path}: {error.strerror or error}") from error
        digest.update(f"{source.name}\0{content}\0".encode())
    return digest.hexdigest()[:32]


def given_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer that the config names. Raises DataError where it is missing, ConfigError where it does not fit."""
    assert config.tokenizer is not None
    tokenizer = load_tokenizer(Path(config.tokenizer))
    if (size := entries(tokenizer)) != config.vocab_size:
        raise ConfigError(
            f"data.vocab_size={config.vocab_size}, but {config.tokenizer} has {size} entries; "
            f"set data.vocab_size={size}"
        )
    number_of(tokenizer, config.end_of_document)
    return tokenizer


def _options(config: DataConfig) -> dict[str, Any]:
    names = ("text_field", "document_separator", "validation_fraction", "vocab_size")
    return {name: getattr(config, name) for name in names}


@dataclass
class _Tally:
    """What has been written of a split."""

    counts: Counts
    documents: int = 0
    bytes: int = 0

    def size(self) -> SplitSize:
        return SplitSize(documents=self.documents, tokens=int(self.counts.sum()), bytes=self.bytes)


def _build(corpus: Corpus, directory: Path) -> None:
    """Writes beside `directory` and renames at the end, so that a folder by this name is always complete."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".building-") as building:
            written = Path(building) / "data"
            written.mkdir()
            with Reporter(sys.stderr) as reporter:
                _write(corpus, written, reporter)
            _claim(written, directory)
    except OSError as error:
        raise DataError(
            f"cannot write prepared data to {directory.parent}: {error.strerror or error}; "
            "set data.cache or EYAS_CACHE to a folder with room"
        ) from error


def _claim(written: Path, directory: Path) -> None:
    try:
        written.rename(directory)
    except OSError:
        if not (directory / CARD).is_file():  # another process was first: its data is the same
            raise


def _write(corpus: Corpus, directory: Path, reporter: Reporter) -> None:
    from eyas.parallel.indexed import TokenWriter

    config = corpus.config
    if config.tokenizer is None:
        texts = (text for _, text in reporter.each("Training the tokenizer", corpus.documents("train")))
        tokenizer = train_tokenizer(texts, config.vocab_size)
    else:
        tokenizer = given_tokenizer(config)
    tokenizer.save(str(directory / "tokenizer.json"))
    tallies = {split: _Tally(np.zeros(config.vocab_size, dtype=np.int64)) for split in SPLITS}
    with ExitStack() as stack:
        writers = {split: stack.enter_context(TokenWriter(directory / split, config.vocab_size)) for split in SPLITS}
        for split, text, tokens in _tokenized(
            tokenizer, config.end_of_document, reporter.each("Tokenizing", corpus.documents())
        ):
            writers[split].add_document(tokens)
            tally = tallies[split]
            np.add.at(tally.counts, tokens, 1)
            tally.documents += 1
            tally.bytes += len(text.encode())
    counts = {split: tally.counts for split, tally in tallies.items()}
    card = {
        "format": FORMAT,
        "origin": config.origin,
        "files": len(corpus.sources),
        **_options(config),
        **{split: asdict(tally.size()) for split, tally in tallies.items()},
        "uniform_loss": uniform_loss(config.vocab_size),
        "unigram_loss": unigram_loss(counts["train"], counts["validation"]),
    }
    (directory / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _tokenized(
    tokenizer: Tokenizer, end_of_document: str, documents: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str, list[int]]]:
    end = number_of(tokenizer, end_of_document)
    begins = tokenizer.encode("").ids != [end]  # what ends the document before need not begin the next one again
    for batch in _batched(documents):
        encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=begins)
        for (split, text), encoding in zip(batch, encodings, strict=True):
            yield split, text, [*encoding.ids, end]


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
