"""The names under which texts are cached: by what they hold, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from eyas.core.errors import DataError
from eyas.experiments.corpus import Source
from eyas.experiments.data_config import DataConfig, Text
from eyas.experiments.given_tokenizer import given_tokenizer

FORMAT = 2
"""Raised when prepared data changes for the same text and options."""


def fingerprints(config: DataConfig, sources: Mapping[str, Iterable[Source]]) -> dict[str, str]:
    """A name for each text: its contents, and all that decides its tokens. All texts of a blend decide a tokenizer that
    is trained; weights, seed and length of sequences decide no token."""
    contents = {text.name: contents_of(text, sources[text.name]) for text in config.texts}
    common: dict[str, Any] = {"format": FORMAT, "vocab_size": config.vocab_size}
    if config.tokenizer is not None:
        common |= {"end": config.end_of_document, "tokenizer": given_tokenizer(config).to_str()}
    elif config.has_tokenizer and len(contents) > 1:
        common["learnt_from"] = list(contents.values())
    return {
        name: hashlib.sha256(json.dumps({**common, "contents": held}, sort_keys=True).encode()).hexdigest()[:32]
        for name, held in contents.items()
    }


def contents_of(text: Text, sources: Iterable[Source]) -> str:
    """A hash of all files of a text, and of how they are cut into documents."""
    options = text.text_field, text.document_separator, text.validation_fraction, text.tokenized
    digest = hashlib.sha256(json.dumps(options).encode())
    for source in sources:
        paths = [source.path, source.path.with_suffix(".idx")] if text.tokenized else [source.path]
        for path in paths:
            try:
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror or error}") from error
            digest.update(f"{source.name}\0{content}\0".encode())
    return digest.hexdigest()
