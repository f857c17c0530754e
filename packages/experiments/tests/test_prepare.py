"""From text to tokens on disk."""

import dataclasses
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eyas.core.errors import ConfigError, DataError
from eyas.experiments import corpus
from eyas.experiments.corpus import Corpus
from eyas.experiments.data_config import DataConfig
from eyas.experiments.prepare import prepare as prepare_all
from eyas.experiments.prepared import PreparedText, load_prepared
from eyas.experiments.tokenizer import load_tokenizer
from eyas.parallel.indexed import open_tokens

WORDS = ("falcon", "fist", "hood", "lure", "jess", "mews", "swivel", "creance")


def prepare(config: DataConfig) -> PreparedText:
    """The only text of a config."""
    (text,) = prepare_all(config).texts.values()
    return text


def check(config: DataConfig) -> Corpus:
    return corpus.check(*config.texts)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    random = np.random.default_rng(0)
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(" ".join(random.choice(WORDS, 60)) + " naïve €\n")
    return DataConfig(
        files=f"{tmp_path}/*.txt",
        vocab_size=280,
        sequence_length=16,
        validation_fraction=0.2,
        cache=str(tmp_path / "cache"),
    )


def test_tokens_decode_to_the_documents_of_their_split(config: DataConfig) -> None:
    prepared = prepare(config)
    tokenizer = load_tokenizer(prepared.tokenizer)
    for split in ("train", "validation"):
        file = open_tokens(prepared.directory / split)
        documents = np.split(file.tokens, file.document_starts[1:])
        assert [tokenizer.decode(document[:-1].tolist()) for document in documents] == [
            text for _, text in check(config).documents(split)
        ]
        assert all(document[-1] == 0 for document in documents)


def test_the_card_tells_what_is_on_disk(config: DataConfig) -> None:
    prepared = prepare(config)
    train, validation = open_tokens(prepared.train_prefix), open_tokens(prepared.validation_prefix)
    assert (prepared.train.tokens, prepared.validation.tokens) == (len(train.tokens), len(validation.tokens))
    assert prepared.train.documents + prepared.validation.documents == 30
    assert prepared.train.bytes + prepared.validation.bytes == sum(
        len(text.encode()) for _, text in check(config).documents()
    )
    assert prepared.uniform_loss == math.log(280)
    frequencies = (np.bincount(train.tokens, minlength=280) + 1) / (len(train.tokens) + 280)
    assert prepared.unigram_loss == pytest.approx(-np.log(frequencies[validation.tokens]).mean(), rel=1e-12)
    assert prepared == load_prepared(prepared.directory)


def test_the_tokenizer_never_sees_validation_text(config: DataConfig) -> None:
    before = prepare(config)
    for source in check(config).sources:
        if source.path.read_text() in [text for _, text in check(config).documents("validation")]:
            source.path.write_text("zzzz " * 200)
    after = prepare(config)
    assert after.directory != before.directory
    assert after.tokenizer.read_bytes() == before.tokenizer.read_bytes()


def test_the_cache_answers_for_the_same_text_wherever_it_lies(config: DataConfig, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in tmp_path.glob("*.txt"):
        (moved / path.name).write_bytes(path.read_bytes())
    first = prepare(config)
    stamp = first.tokenizer.stat().st_mtime_ns
    second = prepare(dataclasses.replace(config, files=f"{moved}/*.txt", seed=5, sequence_length=8))
    assert dataclasses.replace(second, origin=first.origin) == first
    assert second.tokenizer.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("change", ["text", "name", "vocabulary", "fraction"])
def test_the_cache_knows_what_changes_the_tokens(config: DataConfig, tmp_path: Path, change: str) -> None:
    before = prepare(config).directory
    if change == "text":
        (tmp_path / "0.txt").write_text("a falcon")
    elif change == "name":
        (tmp_path / "0.txt").rename(tmp_path / "00.txt")
    elif change == "fraction":
        config = dataclasses.replace(config, validation_fraction=0.3)
    else:
        config = dataclasses.replace(config, vocab_size=281)
    assert prepare(config).directory != before


def test_preparing_twice_from_scratch_gives_the_same_bytes(config: DataConfig, tmp_path: Path) -> None:
    contents = []
    for cache in ("one", "two"):
        directory = prepare(dataclasses.replace(config, cache=str(tmp_path / cache))).directory
        contents.append({path.name: path.read_bytes() for path in sorted(directory.iterdir())})
    assert contents[0] == contents[1]
    assert set(contents[0]) >= {"card.json", "tokenizer.json", "train.bin", "train.idx", "validation.bin"}


def test_preparers_at_the_same_time_agree_and_leave_nothing_behind(config: DataConfig, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(prepare, [config] * 4))
    assert all(each == prepared[0] for each in prepared)
    assert [path.name for path in (tmp_path / "cache" / "data").iterdir()] == [prepared[0].directory.name]


def test_a_failed_preparation_leaves_nothing_behind(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.vocab_size=99999"):
        prepare(dataclasses.replace(config, vocab_size=99999))
    assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_prepared_data_is_found_without_megatron_torch_or_lightning(config: DataConfig) -> None:
    prepare(config)
    program = f"""
import sys
from eyas.experiments.data_config import DataConfig
from eyas.experiments.prepare import prepare
prepare({config!r})
print(sorted({{"megatron", "torch", "lightning"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_corpus_shorter_than_a_sequence_is_refused(config: DataConfig) -> None:
    tokens = prepare(config).validation.tokens
    longest = dataclasses.replace(config, sequence_length=tokens - 1)
    assert prepare(longest).validation.tokens == tokens
    with pytest.raises(DataError, match=rf"gives {tokens} validation tokens, fewer than one sequence"):
        prepare(dataclasses.replace(config, sequence_length=tokens))


def test_a_damaged_or_missing_card_is_named(config: DataConfig, tmp_path: Path) -> None:
    card = prepare(config).directory / "card.json"
    card.write_text(json.dumps({"vocab_size": 280}))
    with pytest.raises(DataError, match=r"card\.json is damaged .* delete"):
        prepare(config)
    with pytest.raises(DataError, match=r"holds no prepared data"):
        load_prepared(tmp_path)


def test_a_cache_that_is_a_file_is_named(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"cannot write prepared data .* set data\.cache or EYAS_CACHE"):
        prepare(config)
