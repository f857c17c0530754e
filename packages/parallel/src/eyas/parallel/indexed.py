"""Token files in Megatron's indexed format: PREFIX.bin holds the tokens, PREFIX.idx where documents begin."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eyas.core.errors import DataError
from eyas.parallel import quiet

Tokens = NDArray[Any]
"""Token numbers, uint16 or int32 by the size of the vocabulary."""

HEADER = struct.Struct("<9sQBQQ")
"""What an index begins with: its mark, version and type of tokens, and how many sequences and documents it tells of.
Megatron-Core's reader (indexed_dataset.py, _IndexReader) asserts no more, and complains on the terminal."""
MARK = b"MMIDIDX\0\0"
TYPES = range(1, 9)
"""Its numbers for numpy's types of tokens."""


@dataclass(frozen=True)
class TokenFile:
    """Tokens of many documents in one array that stays on disk, and the position at which each document begins."""

    tokens: Tokens
    document_starts: NDArray[np.int64]


class TokenWriter:
    """Writes documents to PREFIX.bin and PREFIX.idx; the files are complete once the `with` block ends."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        with quiet.importing():  # three seconds, so not before there is something to write
            from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder, get_bin_path, get_idx_path

        self.dtype = DType.optimal_dtype(vocab_size)
        self.idx_path = get_idx_path(str(prefix))
        self.builder = IndexedDatasetBuilder(get_bin_path(str(prefix)), dtype=self.dtype)

    def add_document(self, tokens: Sequence[int] | Tokens) -> None:
        """Appends one document."""
        self.builder.add_document(np.asarray(tokens, dtype=self.dtype), [len(tokens)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.builder.finalize(self.idx_path)
        else:
            self.builder.data_file.close()


def open_tokens(prefix: Path) -> TokenFile:
    """Maps PREFIX.bin into memory; nothing is read before it is used. Raises DataError where a file is missing, or
    holds something else than the other one says."""
    for suffix in (".idx", ".bin"):
        if not Path(f"{prefix}{suffix}").is_file():
            raise DataError(f"there is no token file {prefix}{suffix}; prepare the data again")
    with quiet.importing():
        from megatron.core.datasets.indexed_dataset import _IndexReader, get_bin_path

    _check_index(Path(f"{prefix}.idx"))
    index = _IndexReader(f"{prefix}.idx", multimodal=False)
    length, size = int(index.sequence_lengths.sum(dtype=np.int64)), np.dtype(index.dtype).itemsize
    if (found := Path(f"{prefix}.bin").stat().st_size) != length * size:
        raise DataError(
            f"{prefix}.bin has {found:,} bytes, but its index tells of {length:,} tokens of {size} bytes; one of the "
            "two is cut short or of another corpus, so copy both again"
        )
    tokens = np.memmap(get_bin_path(str(prefix)), dtype=index.dtype, mode="r") if length else np.empty(0, index.dtype)
    starts = np.cumsum(index.sequence_lengths, dtype=np.int64) - index.sequence_lengths
    first_sequences = index.document_indices[:-1]  # a last document without sequences begins behind them all
    return TokenFile(tokens, np.append(starts, length)[first_sequences])


def _check_index(path: Path) -> None:
    """Raises DataError where an index is none, or not whole: a length and a place for each sequence, then documents."""
    with path.open("rb") as stream:
        header = stream.read(HEADER.size)
    if len(header) == HEADER.size:
        mark, version, code, sequences, documents = HEADER.unpack(header)
        whole = HEADER.size + (4 + 8) * sequences + 8 * documents
        if (mark, version) == (MARK, 1) and code in TYPES and path.stat().st_size == whole:
            return
    raise DataError(f"{path} is no whole index in Megatron's format; make the token files again")
