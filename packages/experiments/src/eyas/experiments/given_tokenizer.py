"""The tokenizer that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from eyas.core.errors import ConfigError
from eyas.experiments.data_config import DataConfig
from eyas.experiments.tokenizer import entries, load_tokenizer, number_of


def given_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer that the config names. Raises DataError where it is missing, ConfigError where it does not fit."""
    assert config.tokenizer is not None
    tokenizer = load_tokenizer(Path(config.tokenizer))
    if (size := entries(tokenizer)) != config.vocab_size:
        raise ConfigError(
            f"data.vocab_size={config.vocab_size}, but {config.tokenizer} has {size} entries; "
            f"set data.vocab_size={size}"
        )
    number_of(tokenizer, config.end_of_document)
    return tokenizer
