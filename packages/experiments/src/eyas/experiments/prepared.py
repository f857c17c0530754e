"""Texts in tokens on disk: what a worker needs to know of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eyas.core.errors import DataError

CARD = "card.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class SplitSize:
    """How much text a split holds."""

    documents: int = 0
    tokens: int = 0
    bytes: int | None = 0
    """Of the text in UTF-8; None where the documents came as tokens."""


@dataclass(frozen=True)
class Lengths:
    """Tokens in a training document, the one that ends it included."""

    mean: float
    quantiles: dict[str, int]
    """From `shortest` over `median` to `longest`."""
    histogram: dict[str, int]
    """Documents of so many tokens or more, up to twice as many."""


@dataclass(frozen=True)
class PreparedText:
    """Tokens of one text on disk."""

    directory: Path
    vocab_size: int
    train: SplitSize
    validation: SplitSize
    uniform_loss: float
    """Nats per token of a model that knows nothing."""
    unigram_loss: float
    """Nats per validation token of a model that knows how often each token comes."""
    lengths: Lengths
    sample: str
    """The beginning of a training document; its token numbers where there is no tokenizer."""
    origin: str
    """The files, as the configuration named them that prepared them."""
    files: int

    @property
    def tokenizer(self) -> Path:
        return self.directory / TOKENIZER

    @property
    def train_prefix(self) -> Path:
        return self.directory / "train"

    @property
    def validation_prefix(self) -> Path:
        return self.directory / "validation"

    @property
    def hash(self) -> str:
        """Of the files' contents and of what decided their tokens."""
        return self.directory.name


@dataclass(frozen=True)
class Prepared:
    """All that a run reads, in tokens on disk."""

    texts: Mapping[str, PreparedText]
    """By their names in the blend; one with an empty name stands alone."""

    @property
    def vocab_size(self) -> int:
        return next(iter(self.texts.values())).vocab_size

    @property
    def uniform_loss(self) -> float:
        return next(iter(self.texts.values())).uniform_loss

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer of all texts; None where they came as tokens without one."""
        return next((text.tokenizer for text in self.texts.values() if text.tokenizer.is_file()), None)


def load_prepared(directory: Path) -> PreparedText:
    """Reads what `prepare` left in a folder."""
    path = directory / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return PreparedText(
            directory=directory,
            vocab_size=card["vocab_size"],
            train=SplitSize(**card["train"]),
            validation=SplitSize(**card["validation"]),
            uniform_loss=card["uniform_loss"],
            unigram_loss=card["unigram_loss"],
            lengths=Lengths(**card["lengths"]),
            sample=card["sample"],
            origin=card["origin"],
            files=card["files"],
        )
    except FileNotFoundError as error:
        raise DataError(f"{directory} holds no prepared data ({CARD} is missing); prepare the data again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete {directory} and prepare the data again") from error
