"""The tokenizer of a run: byte-level BPE trained on the run's own training text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from eyas.core.errors import ConfigError, DataError
from eyas.experiments.data_config import END_OF_DOCUMENT


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer of exactly `vocab_size` entries; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (size := tokenizer.get_vocab_size()) < vocab_size:
        raise ConfigError(
            f"data.vocab_size={vocab_size} is more than the training text can fill; set data.vocab_size={size} or "
            "less, or add text"
        )
    return _reading_text_as_text(tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json, or that of a folder."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"there is no tokenizer at {file}; give the tokenizer.json that the tokens were made with")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself, and this is one call of it
        raise DataError(f"{file} is no tokenizer.json that the tokenizers library reads: {error}") from error
    tokenizer.no_truncation()  # which a file keeps of its last use, as it does padding
    tokenizer.no_padding()
    return _reading_text_as_text(tokenizer)


def entries(tokenizer: Tokenizer) -> int:
    """Token numbers that the tokenizer gives, those that it leaves out in between included."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def number_of(tokenizer: Tokenizer, token: str) -> int:
    """The number of a token. Raises ConfigError for one that the tokenizer has not."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ConfigError(f"data.end_of_document={token!r} is no token of the tokenizer; name one that is")
    return number


def _reading_text_as_text(tokenizer: Tokenizer) -> Tokenizer:
    """Makes text that spells the end of a document stay text; the setting is not part of tokenizer.json."""
    tokenizer.encode_special_tokens = True
    return tokenizer
