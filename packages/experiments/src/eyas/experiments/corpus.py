"""Which text a run reads, and which of it is kept for validation."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Literal

from eyas.core.errors import ConfigError, DataError
from eyas.experiments.documents import read_documents

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Parts of Python's standard library that are not its own source, or hold broken text on purpose."""
END_OF_DOCUMENT = "<|endoftext|>"
"""The token after every document, in a tokenizer of ours; its number is 0."""
SMALLEST_VOCABULARY = 257
"""Every byte, and the token that ends a document."""
TEXT_OPTIONS = (
    "files", "text_field", "document_separator", "validation_fraction", "tokenizer", "end_of_document",
    "isolate_documents", "cache",
)  # fmt: skip
"""Options that mean nothing where a task draws its own sequences."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text a run reads and how it is cut into sequences."""

    source: Literal["text", "task"] = "text"
    """text reads files; task takes the sequences that the task draws, which decides their vocabulary and length."""
    files: str | None = None
    """Glob of text, .jsonl or .parquet files, `**` for any depth; null for the source of Python's standard library."""
    text_field: str = "text"
    """Field of a .jsonl line, or column of a .parquet file, that holds the text."""
    document_separator: str | None = None
    """What stands between the documents of a text file; null where a file is one document."""
    validation_fraction: float = 0.05
    """Share of the documents that is kept for validation."""
    vocab_size: int = 4096
    """Entries of the byte-level BPE vocabulary that is trained on the training documents."""
    tokenizer: str | None = None
    """A tokenizer.json of vocab_size entries to use as it is; null trains one."""
    end_of_document: str = END_OF_DOCUMENT
    """The token after every document; only another tokenizer has another one."""
    sequence_length: int = 256
    """Tokens in a sequence."""
    validation_sequences: int | None = 256
    """Sequences in one validation, spread evenly over the validation documents; null for all of them."""
    seed: int = 1234
    """Seed of the order of training sequences."""
    isolate_documents: bool = False
    """Whether documents that share a sequence are kept apart in every mixer."""
    cache: str | None = None
    """Folder for prepared data; null for $EYAS_CACHE, or ~/.cache/eyas without it."""

    def __post_init__(self) -> None:
        if self.files == "":
            raise ConfigError("data.files is empty; give a glob such as data.files='texts/**/*.txt', or data=stdlib")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction={self.validation_fraction} is no share of the documents; "
                "choose one between 0 and 1"
            )
        if self.source == "task":
            self._check_without_text()
        elif self.tokenizer is None and self.vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"data.vocab_size={self.vocab_size} has no room for the 256 bytes and the end of a document; "
                f"choose {SMALLEST_VOCABULARY} or more"
            )
        if self.sequence_length < 1:
            raise ConfigError(f"data.sequence_length={self.sequence_length} must be at least 1")
        if self.validation_sequences is not None and self.validation_sequences < 1:
            raise ConfigError(
                f"data.validation_sequences={self.validation_sequences} must be at least 1, or null for all"
            )
        if self.document_separator == "":
            raise ConfigError("data.document_separator is empty; give the text between documents, or null")
        if self.seed < 0:
            raise ConfigError(f"data.seed={self.seed} must not be negative")

    def _check_without_text(self) -> None:
        for name in TEXT_OPTIONS:
            value = getattr(self, name)
            if value != getattr(DataConfig, name):
                raise ConfigError(
                    f"data.{name}={value} is about text, but the task draws its own sequences; leave it out, or set "
                    "task=language_modelling"
                )
        if self.validation_sequences is None:
            raise ConfigError("data.validation_sequences=null has no end where a task draws its own; give a number")

    @property
    def origin(self) -> str:
        """How messages name the files of this config."""
        return f"data.files={self.files}" if self.files is not None else "Python's standard library (data.files=null)"

    @property
    def cache_folder(self) -> Path:
        """Folder for prepared data."""
        return Path(self.cache or os.environ.get("EYAS_CACHE") or "~/.cache/eyas").expanduser()


@dataclass(frozen=True)
class Source:
    """A file of the corpus, under a name that is the same on every machine."""

    path: Path
    name: str


@dataclass(frozen=True)
class Corpus:
    """Documents that were found readable, and the line between training and validation."""

    config: DataConfig
    sources: tuple[Source, ...]
    validation_below: int
    """Documents whose place is below this are validation documents."""

    def documents(self, split: str | None = None) -> Iterator[tuple[str, str]]:
        """Yields (split, text) of the documents in order: all of them, or those of one split."""
        for source in self.sources:
            for name, text in read_documents(source.path, source.name, self.config):
                mine = "validation" if place(name) < self.validation_below else "train"
                if split in (None, mine):
                    yield mine, text


def find_files(config: DataConfig) -> tuple[Source, ...]:
    """The files that the config asks for, in an order that does not depend on the machine."""
    if config.files is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [path for path in root.rglob("*.py") if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)]
        if not found:
            raise DataError(f"{config.origin} has no source in {root}; set data.files to text of your own")
    else:
        pattern = Path(config.files).expanduser()
        parts = pattern.parts
        plain = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        root = Path(*parts[:plain])
        found = [Path(path) for path in glob(str(pattern), recursive=True) if Path(path).is_file()]
        if not found:
            inside = f"; for the files inside a folder write {config.files.rstrip('/')}/**/*.txt"
            remedy = inside if pattern.is_dir() else f" from {Path.cwd()}; check the path and quote the pattern"
            raise DataError(f"{config.origin} matches no file{remedy}")
    sources = [Source(path, path.relative_to(root).as_posix()) for path in found]
    return tuple(sorted(sources, key=lambda source: source.name))


def check(config: DataConfig) -> Corpus:
    """Reads every file once, so that missing, unreadable or empty data is found before any process starts."""
    sources = find_files(config)
    documents, least, most = 0, 2**64, 0
    for source in sources:
        for name, _ in read_documents(source.path, source.name, config):
            documents, least, most = documents + 1, min(least, place(name)), max(most, place(name))
    if documents < 2:
        count = "a single document" if documents else "no text"
        raise DataError(
            f"{config.origin} holds {count} and training needs one for each of training and validation; "
            "add files, or set data.document_separator to what stands between documents"
        )
    wanted = int(config.validation_fraction * 2**64)
    return Corpus(config, sources, validation_below=min(max(wanted, least + 1), most))


def place(name: str) -> int:
    """Where a document stands between 0 and 2^64 by its name alone, whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
