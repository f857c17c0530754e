"""From text to tokens on disk, once: later runs with the same text find them in the cache."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from eyas.core.errors import DataError
from eyas.experiments.corpus import Corpus, Source, check, find_files
from eyas.experiments.data_config import DataConfig
from eyas.experiments.fingerprint import fingerprints
from eyas.experiments.given_tokenizer import given_tokenizer
from eyas.experiments.prepared import CARD, SPLITS, TOKENIZER, Prepared, load_prepared
from eyas.experiments.progress import Reporter
from eyas.experiments.tokenizer import load_tokenizer, train_tokenizer
from eyas.experiments.write_text import write_text


def prepare(config: DataConfig) -> Prepared:
    """Tokenizes what the config names, or finds it tokenized; safe to call from several processes at once."""
    directories = places(config)
    missing = [name for name, directory in directories.items() if not (directory / CARD).is_file()]
    if missing:
        _build(config, directories, missing)
    prepared = Prepared({name: load_prepared(directory) for name, directory in directories.items()})
    check_length(config, prepared)
    return prepared


def places(config: DataConfig) -> dict[str, Path]:
    """The folder of the cache that each text of the config has, whether it is there already or not."""
    sources = {text.name: find_files(text) for text in config.texts}
    check_apart(config, sources)
    return {name: config.cache_folder / "data" / found for name, found in fingerprints(config, sources).items()}


def check_apart(config: DataConfig, sources: Mapping[str, Sequence[Source]]) -> None:
    """Raises DataError where two parts of a blend have a file in common: what one keeps for validation the other may
    learn from."""
    owners: dict[Path, str] = {}
    for text in config.texts:
        for source in sources[text.name]:
            if owners.setdefault(source.path.resolve(), text.origin) != text.origin:
                raise DataError(
                    f"{source.path} is in {owners[source.path.resolve()]} and in {text.origin}, and what one keeps for "
                    "validation the other may learn from; let each file be in one of them"
                )


def check_length(config: DataConfig, prepared: Prepared) -> None:
    """Raises DataError where a text does not fill a sequence."""
    if config.documents == "packed":  # a sequence that is not full is none the worse
        return
    for text in config.texts:
        for split in SPLITS:
            tokens = getattr(prepared.texts[text.name], split).tokens
            if tokens <= config.sequence_length:
                raise DataError(
                    f"{text.origin} gives {tokens} {split} tokens, fewer than one sequence of "
                    f"data.sequence_length={config.sequence_length} and its last label; shorten it or add text"
                )


def _build(config: DataConfig, directories: Mapping[str, Path], missing: list[str]) -> None:
    """Writes the texts that are missing, each beside its folder, which it gets at the end: a folder by that name is
    always complete."""
    parent = config.cache_folder / "data"
    corpora = {text.name: check(text) for text in config.texts if _is_needed(config, text.name, directories, missing)}
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".building-") as building, Reporter(sys.stderr) as reporter:
            tokenizer = _tokenizer(config, corpora, directories, reporter)
            for name in missing:
                written = Path(building) / (name or "data")
                written.mkdir()
                write_text(config, corpora[name], tokenizer, written, reporter)
                _claim(written, directories[name])
    except OSError as error:
        raise DataError(
            f"cannot write prepared data to {parent}: {error.strerror or error}; "
            "set data.cache or EYAS_CACHE to a folder with room"
        ) from error


def _is_needed(config: DataConfig, name: str, directories: Mapping[str, Path], missing: list[str]) -> bool:
    """Whether a text has to be read: to be tokenized, or to learn the tokenizer from."""
    learns = config.has_tokenizer and config.tokenizer is None and _learnt(directories) is None
    return name in missing or learns


def _tokenizer(
    config: DataConfig, corpora: Mapping[str, Corpus], directories: Mapping[str, Path], reporter: Reporter
) -> Tokenizer | None:
    """The tokenizer that is given, that another text of the blend has already, or that is trained now."""
    if config.tokenizer is not None:
        return given_tokenizer(config)
    if not config.has_tokenizer:
        return None
    if (learnt := _learnt(directories)) is not None:
        return load_tokenizer(learnt)
    documents = chain.from_iterable(corpus.documents("train") for corpus in corpora.values())
    texts = (text for _, text in reporter.each("Training the tokenizer", documents))
    return train_tokenizer(texts, config.vocab_size)


def _learnt(directories: Mapping[str, Path]) -> Path | None:
    """A tokenizer that was trained on all of these texts: their folders' names say so."""
    complete = (directory for directory in directories.values() if (directory / CARD).is_file())
    return next((directory / TOKENIZER for directory in complete if (directory / TOKENIZER).is_file()), None)


def _claim(written: Path, directory: Path) -> None:
    try:
        written.rename(directory)
    except OSError:
        if not (directory / CARD).is_file():  # another process was first: its data is the same
            raise
