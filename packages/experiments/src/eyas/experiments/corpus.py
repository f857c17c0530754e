"""Which text a run reads, and which of it is kept for validation."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eyas.core.errors import DataError
from eyas.experiments.data_config import TOKENS, Text
from eyas.experiments.documents import read_documents, read_tokens
from eyas.experiments.saved_dataset import arrow_files, is_saved_dataset

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Parts of Python's standard library that are not its own source, or hold broken text on purpose."""


@dataclass(frozen=True)
class Source:
    """A file of the corpus, under a name that is the same on every machine."""

    path: Path
    name: str


@dataclass(frozen=True)
class Corpus:
    """Documents that were found readable, and the line between training and validation."""

    text: Text
    sources: tuple[Source, ...]
    number: int
    """Of the documents."""
    validation_below: int
    """Documents whose place is below this are validation documents."""

    def documents(self, split: str | None = None) -> Iterator[tuple[str, str]]:
        """Yields (split, text) of the documents in order: all of them, or those of one split."""
        for source in self.sources:
            for name, text in read_documents(source.path, source.name, self.text):
                mine = self.split_of(name)
                if split in (None, mine):
                    yield mine, text

    def token_documents(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yields (split, tokens) of the documents of files that hold tokens."""
        for source in self.sources:
            for name, tokens in read_tokens(source.path, source.name):
                yield self.split_of(name), tokens

    def split_of(self, name: str) -> str:
        """The split that a document is in."""
        return "validation" if place(name) < self.validation_below else "train"


def find_files(text: Text) -> tuple[Source, ...]:
    """The files of a text, in an order that does not depend on the machine."""
    if text.files is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [path for path in root.rglob("*.py") if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)]
        if not found:
            raise DataError(f"{text.origin} has no source in {root}; set data.files to text of your own")
    else:
        pattern = Path(text.files).expanduser()
        parts = pattern.parts
        plain = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        root = Path(*parts[:plain])
        found = _matching(pattern)
        if not found:
            inside = f"; for the files inside a folder write {text.files.rstrip('/')}/**/*.txt"
            remedy = inside if pattern.is_dir() else f" from {Path.cwd()}; check the path and quote the pattern"
            raise DataError(f"{text.origin} matches no file{remedy}")
        _check_tokens(text, found)
    sources = [Source(path, path.relative_to(root).as_posix()) for path in found]
    return tuple(sorted(sources, key=lambda source: source.name))


def check(text: Text) -> Corpus:
    """Reads every file once, so that missing, unreadable or empty data is found before any process starts."""
    sources = find_files(text)
    documents, least, most = 0, 2**64, 0
    for name in _names(text, sources):
        documents, least, most = documents + 1, min(least, place(name)), max(most, place(name))
    if documents < 2:
        count = "a single document" if documents else "no text"
        raise DataError(
            f"{text.origin} holds {count} and training needs one for each of training and validation; "
            f"add files, or set {text.where}.document_separator to what stands between documents"
        )
    wanted = int(text.validation_fraction * 2**64)
    return Corpus(text, sources, documents, validation_below=min(max(wanted, least + 1), most))


def place(name: str) -> int:
    """Where a document stands between 0 and 2^64 by its name alone, whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _matching(pattern: Path) -> list[Path]:
    """Files that a pattern matches; a saved dataset counts as its Arrow files, whatever else lies in its folder."""
    matched = [Path(path) for path in dict.fromkeys(glob(str(pattern), recursive=True))]
    folders = {match if match.is_dir() else match.parent for match in matched}
    datasets = {folder for folder in folders if is_saved_dataset(folder)}
    files = [path for path in matched if path.is_file() and datasets.isdisjoint(path.parents)]
    return files + [path for folder in sorted(datasets) for path in arrow_files(folder)]


def _check_tokens(text: Text, found: list[Path]) -> None:
    """Raises DataError where files of tokens have no index, or are about to be read as text."""
    for path in found:
        indexed = path.suffix == TOKENS and path.with_suffix(".idx").is_file()
        if text.tokenized and not indexed:
            raise DataError(f"there is no {path.with_suffix('.idx')}, which tells where the documents of {path} begin")
        if indexed and not text.tokenized:
            raise DataError(
                f"{text.origin} matches the token file {path}; end the pattern in {TOKENS} to read tokens, such as "
                f"{text.where}.files='{path}'"
            )


def _names(text: Text, sources: tuple[Source, ...]) -> Iterator[str]:
    for source in sources:
        if text.tokenized:
            yield from (name for name, _ in read_tokens(source.path, source.name))
        else:
            yield from (name for name, _ in read_documents(source.path, source.name, text))
