"""What `eyas train --dry-run` refuses of a run's data: all that training would, as far as that is told in seconds."""

from __future__ import annotations

from eyas.core.errors import DataError
from eyas.experiments.corpus import Source, check, find_files
from eyas.experiments.data_config import DataConfig, Text
from eyas.experiments.given_tokenizer import given_tokenizer
from eyas.experiments.prepare import check_length, places, prepare
from eyas.experiments.prepared import CARD, Prepared, load_prepared

PREPARED = 8 << 20
"""Bytes of text that are prepared at once, for the run that follows."""
LOOKED_UP = 256 << 20
"""Bytes whose hash is taken, to see whether they are prepared already."""


def check_data(config: DataConfig) -> None:
    """Raises what `prepare` would: everything for a text that is small or prepared already, else what the tokenizer,
    the names and sizes of the files and the indices of given tokens tell."""
    if config.tokenizer is not None:
        given_tokenizer(config)
    sizes = {text.name: sum(map(_size, find_files(text))) for text in config.texts}
    size = sum(sizes.values())
    if size <= PREPARED:
        prepare(config)
        return
    cached = places(config) if size <= LOOKED_UP else {}
    if cached and all((place / CARD).is_file() for place in cached.values()):
        check_length(config, Prepared({name: load_prepared(place) for name, place in cached.items()}))
        return
    for text in config.texts:
        if text.tokenized:
            check(text)
        else:
            _check_room(config, text, sizes[text.name])


def _check_room(config: DataConfig, text: Text, size: int) -> None:
    """Raises DataError where files of so many bytes cannot fill a sequence: each token is a byte of text or more, but
    for one at the end of a document. Tables may be compressed."""
    tables = text.files is not None and text.files.endswith((".parquet", ".arrow"))
    if config.documents != "packed" and not tables and size < config.sequence_length:
        raise DataError(
            f"{text.origin} holds {size:,} bytes, too few for a sequence of "
            f"data.sequence_length={config.sequence_length}; shorten it or add text"
        )


def _size(source: Source) -> int:
    return source.path.stat().st_size
