"""What can be refused of a run's data without preparing it, for `eyas train --dry-run`."""

from __future__ import annotations

from eyas.core.errors import DataError
from eyas.experiments.corpus import Source, check, find_files
from eyas.experiments.data_config import DataConfig, Text
from eyas.experiments.given_tokenizer import given_tokenizer
from eyas.experiments.prepare import check_length, places
from eyas.experiments.prepared import CARD, Prepared, load_prepared
from eyas.experiments.tokenizer import train_tokenizer

READ_WHOLE = 8 << 20
"""Bytes of text that are read, and that a tokenizer is trained on, for a dry run: seconds of work."""
LOOKED_UP = 256 << 20
"""Bytes whose hash is taken to see whether they are prepared already."""


def check_unprepared(config: DataConfig) -> None:
    """Raises what `prepare` would: for a large text all that its files' names and sizes tell, for a text that is small
    or prepared already everything."""
    if config.tokenizer is not None:
        given_tokenizer(config)
    sources = {text.name: find_files(text) for text in config.texts}
    size = sum(_size(source) for found in sources.values() for source in found)
    cached = places(config) if size <= LOOKED_UP else {}
    if cached and all((place / CARD).is_file() for place in cached.values()):
        check_length(config, Prepared({name: load_prepared(place) for name, place in cached.items()}))
        return
    for text in config.texts:
        _check_room(config, text, sum(map(_size, sources[text.name])))
    corpora = [check(text) for text in config.texts if text.tokenized or size <= READ_WHOLE]
    if corpora and config.tokenizer is None and config.has_tokenizer:
        train_tokenizer((text for corpus in corpora for _, text in corpus.documents("train")), config.vocab_size)


def _check_room(config: DataConfig, text: Text, size: int) -> None:
    """Raises DataError where files of so many bytes cannot fill a sequence of each split: each token is a byte of text
    or more, but for one at the end of a document. Tables may be compressed."""
    compressed = text.files is not None and text.files.endswith((".parquet", ".arrow"))
    if config.documents != "packed" and not text.tokenized and not compressed and size < config.sequence_length:
        raise DataError(
            f"{text.origin} holds {size:,} bytes, too few for a sequence of "
            f"data.sequence_length={config.sequence_length}; shorten it or add text"
        )


def _size(source: Source) -> int:
    return source.path.stat().st_size
