"""A corpus in tokens on disk: what a worker needs to know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eyas.core.errors import DataError

CARD = "card.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class SplitSize:
    """How much text a split holds."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Prepared:
    """Tokens and tokenizer of a corpus, on disk."""

    directory: Path
    vocab_size: int
    train: SplitSize
    validation: SplitSize
    uniform_loss: float
    """Nats per token of a model that knows nothing."""
    unigram_loss: float
    """Nats per validation token of a model that knows how often each token comes."""

    @property
    def tokenizer(self) -> Path:
        return self.directory / "tokenizer.json"

    @property
    def train_prefix(self) -> Path:
        return self.directory / "train"

    @property
    def validation_prefix(self) -> Path:
        return self.directory / "validation"


def load_prepared(directory: Path) -> Prepared:
    """Reads what `prepare` left in a folder."""
    path = directory / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return Prepared(
            directory=directory,
            vocab_size=card["vocab_size"],
            train=SplitSize(**card["train"]),
            validation=SplitSize(**card["validation"]),
            uniform_loss=card["uniform_loss"],
            unigram_loss=card["unigram_loss"],
        )
    except FileNotFoundError as error:
        raise DataError(f"{directory} holds no prepared data ({CARD} is missing); prepare the data again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete {directory} and prepare the data again") from error
