"""The `data` group: which text a run reads, and how it is cut into sequences."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from eyas.core.errors import ConfigError

END_OF_DOCUMENT = "<|endoftext|>"
"""The token after every document, in a tokenizer of ours; its number is 0."""
SMALLEST_VOCABULARY = 257
"""Every byte, and the token that ends a document."""
TOKENS = ".bin"
"""How the name of a file of tokens ends, which has its index beside it."""
READING = ("files", "text_field", "document_separator")
"""Options that say what is read, which each part of a blend has for itself."""
TEXT_OPTIONS = (*READING, "blend", "validation_fraction", "tokenizer", "end_of_document", "documents", "cache")
"""Options that mean nothing where a task draws its own sequences."""
ROUNDING = 1e-5
"""How far the weights of a blend may be from 1 together: 0.333333 three times is meant as a third each."""

Documents = Literal["joined", "isolated", "packed"]


@dataclass(frozen=True, kw_only=True)
class BlendPart:
    """One text of a blend."""

    weight: float
    """Share of the sequences that are read from it."""
    files: str | None
    """As data.files."""
    text_field: str = "text"
    """As data.text_field."""
    document_separator: str | None = None
    """As data.document_separator."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight={self.weight} must be above 0; leave a text out that is not to be read")
        check_reading(self.files, self.document_separator)


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is read from one set of files, as all of a run's data or as a part of its blend."""

    name: str
    """In the blend; empty for a text alone."""
    share: Fraction
    """Of the sequences; the shares of a blend are 1 together, exactly."""
    where: str
    """The options that it has, as messages name them: data, or data.blend.NAME."""
    files: str | None
    text_field: str
    document_separator: str | None
    validation_fraction: float

    @property
    def tokenized(self) -> bool:
        """Whether its files hold tokens already."""
        return self.files is not None and self.files.endswith(TOKENS)

    @property
    def origin(self) -> str:
        """How messages name its files."""
        given = f"{self.where}.files={self.files or 'null'}"
        return given if self.files is not None else f"Python's standard library ({given})"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text a run reads and how it is cut into sequences."""

    source: Literal["text", "task"] = "text"
    """text reads files; task takes the sequences that the task draws, which decides their vocabulary and length."""
    files: str | None = None
    """Glob of text, .jsonl, .parquet or .arrow files, `**` for any depth, or a folder that datasets.save_to_disk wrote;
    a glob that ends in .bin for tokens in Megatron's format; null for the source of Python's standard library."""
    text_field: str = "text"
    """Field of a .jsonl line, or column of a .parquet or .arrow file, that holds the text."""
    document_separator: str | None = None
    """What stands between the documents of a text file; null where a file is one document."""
    blend: dict[str, BlendPart] | None = None
    """Several texts in place of `files`, by name: {code: {weight: 0.7, files: 'code/**/*.py'}, ...}."""
    validation_fraction: float = 0.05
    """Share of the documents that is kept for validation."""
    vocab_size: int = 4096
    """Entries of the byte-level BPE vocabulary that is trained on the training documents, or of the tokenizer that is
    given; with tokens and no tokenizer, one more than the largest token number there may be."""
    tokenizer: str | None = None
    """A tokenizer.json of vocab_size entries, or a folder with one, to use as it is; null trains one."""
    end_of_document: str = END_OF_DOCUMENT
    """The token after every document; only another tokenizer has another one."""
    sequence_length: int = 256
    """Tokens in a sequence."""
    validation_sequences: int | None = 256
    """Sequences of each text in one validation, spread evenly over its validation documents; null for all of them."""
    seed: int = 1234
    """Seed of the order of training sequences."""
    documents: Documents = "joined"
    """How documents share sequences. joined: one stream, cut anywhere; isolated: the same, kept apart in every mixer;
    packed: kept apart, and whole documents in each sequence, with room left over."""
    cache: str | None = None
    """Folder for prepared data; null for $EYAS_CACHE, or ~/.cache/eyas without it."""

    def __post_init__(self) -> None:
        check_reading(self.files, self.document_separator, "data.")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction={self.validation_fraction} is no share of the documents; "
                "choose one between 0 and 1"
            )
        if self.source == "task":
            self._check_without_text()
        else:
            self._check_blend()
            self._check_vocabulary()
        if self.sequence_length < 1:
            raise ConfigError(f"data.sequence_length={self.sequence_length} must be at least 1")
        if self.validation_sequences is not None and self.validation_sequences < 1:
            raise ConfigError(
                f"data.validation_sequences={self.validation_sequences} must be at least 1, or null for all"
            )
        if self.seed < 0:
            raise ConfigError(f"data.seed={self.seed} must not be negative")

    @property
    def texts(self) -> tuple[Text, ...]:
        """What is read: one text, or those of the blend in the order of their names."""
        if self.blend is None:
            return (self._text("", Fraction(1), self),)
        weights = {name: Fraction(repr(self.blend[name].weight)) for name in sorted(self.blend)}
        total = sum(weights.values())
        return tuple(self._text(name, weight / total, self.blend[name]) for name, weight in weights.items())

    @property
    def has_tokenizer(self) -> bool:
        """Whether tokens can be turned into text: tokens that are given may come without a tokenizer."""
        return self.tokenizer is not None or not self.texts[0].tokenized

    @property
    def isolates_documents(self) -> bool:
        """Whether documents that share a sequence are kept apart."""
        return self.documents != "joined"

    @property
    def cache_folder(self) -> Path:
        """Folder for prepared data."""
        return Path(self.cache or os.environ.get("EYAS_CACHE") or "~/.cache/eyas").expanduser()

    def _text(self, name: str, share: Fraction, reading: BlendPart | DataConfig) -> Text:
        return Text(
            name=name,
            share=share,
            where=f"data.blend.{name}" if name else "data",
            files=reading.files,
            text_field=reading.text_field,
            document_separator=reading.document_separator,
            validation_fraction=self.validation_fraction,
        )

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

    def _check_blend(self) -> None:
        if self.blend is None:
            return
        for option in READING:
            if (value := getattr(self, option)) != getattr(DataConfig, option):
                raise ConfigError(
                    f"data.{option}={value} says what to read, and so does data.blend; set it in the parts of the blend"
                )
        if len(self.blend) < 2:
            raise ConfigError("data.blend mixes two texts or more; give data.files for a single one")
        for name in self.blend:
            if not re.fullmatch(r"[A-Za-z]\w*", name):
                raise ConfigError(f"data.blend: {name!r} is no name for metrics; take letters, digits and _")
        total = sum(part.weight for part in self.blend.values())
        if abs(total - 1) > ROUNDING:
            told = " + ".join(f"{part.weight:g}" for part in self.blend.values())
            raise ConfigError(f"data.blend: the weights are {told} = {total:g}, but shares are 1 together; mend them")

    def _check_vocabulary(self) -> None:
        tokenized = [text.where for text in self.texts if text.tokenized]
        if self.tokenizer is not None:
            return
        if len(tokenized) not in (0, len(self.texts)):
            raise ConfigError(
                f"{tokenized[0]}.files holds tokens and others of the blend text; give data.tokenizer, the one that "
                "the tokens were made with"
            )
        if self.vocab_size < (1 if tokenized else SMALLEST_VOCABULARY):
            raise ConfigError(
                f"data.vocab_size={self.vocab_size} has no room for the 256 bytes and the end of a document; "
                f"choose {SMALLEST_VOCABULARY} or more"
            )


def check_reading(files: str | None, separator: str | None, where: str = "") -> None:
    """Raises ConfigError for options that read nothing; `where` stands before their names."""
    if files == "":
        raise ConfigError(f"{where}files is empty; give a glob such as {where}files='texts/**/*.txt', or data=stdlib")
    if separator == "":
        raise ConfigError(f"{where}document_separator is empty; give the text between documents, or null")
