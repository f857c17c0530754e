"""Documents out of files: plain text, .jsonl, .parquet, Arrow, and tokens in Megatron's format."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from eyas.core.errors import DataError
from eyas.core.nearest import unknown_name
from eyas.experiments.data_config import Text

BLOCK = 1 << 20
"""Bytes read at a time."""
ROWS = 1024
"""Of a Parquet file, read at a time: a row may be a book."""
ARROW_FILE = b"ARROW1"
"""What an Arrow file begins with, and a stream does not."""


def read_documents(path: Path, name: str, options: Text) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of the documents in one file; what holds no text is no document."""
    try:
        for document, text in _documents(path, name, options):
            if text:
                yield document, text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_tokens(path: Path, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields (name, token numbers) of the documents in one file in Megatron's format that hold any."""
    from eyas.parallel.indexed import open_tokens

    file = open_tokens(path.with_suffix(""))
    ends = [*file.document_starts.tolist(), len(file.tokens)][1:]
    for number, (start, end) in enumerate(zip(file.document_starts.tolist(), ends, strict=True)):
        if end > start:
            yield f"{name}:{number}", file.tokens[start:end]


def _documents(path: Path, name: str, options: Text) -> Iterator[tuple[str, str]]:
    if path.suffix == ".jsonl":
        return _numbered(name, _jsonl(path, options))
    if path.suffix == ".parquet":
        return _numbered(name, _parquet(path, options))
    if path.suffix == ".arrow":
        return _numbered(name, _arrow(path, options))
    if options.document_separator is not None:
        return _numbered(name, _separated(path, options))
    return iter([(name, "".join(_text(path, options)))])


def _numbered(name: str, texts: Iterator[str]) -> Iterator[tuple[str, str]]:
    return ((f"{name}:{number}", text) for number, text in enumerate(texts))


def _text(path: Path, options: Text) -> Iterator[str]:
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
                    f"{options.where}.files"
                ) from error
            yield text


def _separated(path: Path, options: Text, separator: str | None = None) -> Iterator[str]:
    separator = separator or options.document_separator or ""
    begun: list[str] = []
    tail = ""  # what may be the beginning of a separator
    for text in _text(path, options):
        *documents, rest = (tail + text).split(separator)
        for document in documents:
            yield "".join([*begun, document])
            begun = []
        cut = max(0, len(rest) - len(separator) + 1)
        begun.append(rest[:cut])
        tail = rest[cut:]
    yield "".join([*begun, tail])


def _jsonl(path: Path, options: Text) -> Iterator[str]:
    field, option = options.text_field, f"{options.where}.text_field"
    for number, line in enumerate(_separated(path, options, "\n"), start=1):
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
            raise DataError(f"{where}: {option}: {unknown_name('field', field, record)}")
        if not isinstance(record[field], str):
            raise DataError(f"{where}: the field {field!r} is not text; set {option} to a field that is")
        try:
            record[field].encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: the field {field!r} holds half a character ({error.reason}); mend it") from error
        yield record[field]


def _parquet(path: Path, options: Text) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            _check_column(path, table.schema_arrow, options)
            for batch in table.iter_batches(ROWS, columns=[options.text_field]):
                yield from (text or "" for text in batch.column(0).to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable parquet file: {_line(error)}") from error


def _arrow(path: Path, options: Text) -> Iterator[str]:
    """An Arrow stream, as datasets.save_to_disk writes it, or an Arrow file."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as stream:
            is_file = stream.read(len(ARROW_FILE)) == ARROW_FILE
            stream.seek(0)
            table = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
            _check_column(path, table.schema, options)
            batches = map(table.get_batch, range(table.num_record_batches)) if is_file else table
            for batch in batches:
                yield from (text or "" for text in batch.column(options.text_field).to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable Arrow file: {_line(error)}") from error


def _check_column(path: Path, schema: Any, options: Text) -> None:
    """Raises DataError where an Arrow schema has no text under the name that is asked for."""
    import pyarrow

    column, option = options.text_field, f"{options.where}.text_field"
    if column not in schema.names:
        raise DataError(f"{path}: {option}: {unknown_name('column', column, schema.names)}")
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise DataError(f"{path}: the column {column!r} holds {kind}, not text; set {option} to one that does")


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
