"""Documents out of files: plain text, .jsonl and .parquet."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from eyas.core.errors import DataError
from eyas.core.nearest import unknown_name

BLOCK = 1 << 20
"""Bytes read at a time."""


class Reading(Protocol):
    """The options that say how a file is cut into documents."""

    @property
    def text_field(self) -> str: ...

    @property
    def document_separator(self) -> str | None: ...


def read_documents(path: Path, name: str, options: Reading) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of the documents in one file; what holds no text is no document."""
    try:
        for document, text in _documents(path, name, options):
            if text:
                yield document, text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _documents(path: Path, name: str, options: Reading) -> Iterator[tuple[str, str]]:
    if path.suffix == ".jsonl":
        return _numbered(name, _jsonl(path, options.text_field))
    if path.suffix == ".parquet":
        return _numbered(name, _parquet(path, options.text_field))
    if options.document_separator is not None:
        return _numbered(name, _separated(path, options.document_separator))
    return iter([(name, "".join(_text(path)))])


def _numbered(name: str, texts: Iterator[str]) -> Iterator[tuple[str, str]]:
    return ((f"{name}:{number}", text) for number, text in enumerate(texts))


def _text(path: Path) -> Iterator[str]:
    """Yields a UTF-8 file in blocks, exactly as it stands: line ends are not translated."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as stream:
        done = False
        while not done:
            offset = stream.tell() - len(decoder.getstate()[0])
            block = stream.read(BLOCK)
            done = not block
            try:
                text = decoder.decode(block, final=done)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is not UTF-8 at byte {offset + error.start}; convert the file, or leave it out of "
                    "data.files"
                ) from error
            yield text


def _separated(path: Path, separator: str) -> Iterator[str]:
    rest = ""
    for text in _text(path):
        *documents, rest = (rest + text).split(separator)
        yield from documents
    yield rest


def _jsonl(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_separated(path, "\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON ({error}); each line of a .jsonl file must be one object") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object; each line of a .jsonl file must be one object")
        if field not in record:
            raise DataError(f"{where}: {unknown_name('field', field, record)} Set data.text_field.")
        if not isinstance(record[field], str):
            raise DataError(f"{where}: the field {field!r} is not text; set data.text_field to a field that is")
        try:
            record[field].encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: the field {field!r} holds half a character ({error.reason}); mend it") from error
        yield record[field]


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise DataError(f"{path}: {unknown_name('column', column, names)} Set data.text_field.")
            kind = table.schema_arrow.field(column).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError(f"{path}: the column {column!r} holds {kind}, not text; set data.text_field")
            for batch in table.iter_batches(columns=[column]):
                yield from (text or "" for text in batch.column(0).to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
