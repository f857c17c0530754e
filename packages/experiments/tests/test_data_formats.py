"""Saved datasets, Arrow files, tokens that are given, tokenizers that are given, and the card of what is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import feather

from eyas.core.errors import ConfigError, DataError
from eyas.experiments import corpus
from eyas.experiments.batches import passes
from eyas.experiments.data_card import card_lines, card_page
from eyas.experiments.data_check import check_data
from eyas.experiments.data_config import DataConfig
from eyas.experiments.documents import read_documents
from eyas.experiments.prepare import prepare
from eyas.experiments.prepared import PreparedText
from eyas.experiments.tokenizer import load_tokenizer, train_tokenizer
from eyas.experiments.windows import Packed
from eyas.experiments.write_text import lengths
from eyas.parallel.indexed import TokenWriter, open_tokens

SAVED = Path(__file__).with_name("saved_dataset")
"""Three rows in the split train and one in test, written by datasets 5.2."""
TEXTS = ["The eyas waits.", "naïve € 𝄞\nsecond line"]


def read(files: object, **options: str) -> list[str]:
    (text,) = DataConfig(files=str(files), **options).texts
    return [
        document for source in corpus.find_files(text) for _, document in read_documents(source.path, source.name, text)
    ]


def only(config: DataConfig) -> PreparedText:
    (text,) = prepare(config).texts.values()
    return text


@pytest.mark.parametrize("pattern", ["train", "train/", "tr*", "train/*", "train/*.arrow"])
def test_a_saved_dataset_is_read_as_its_rows(pattern: str) -> None:
    assert read(SAVED / pattern) == TEXTS


def test_an_arrow_file_is_read_as_its_rows(tmp_path: Path) -> None:
    feather.write_feather(pyarrow.table({"text": TEXTS}), tmp_path / "a.arrow", compression="uncompressed")
    assert read(tmp_path / "*.arrow") == TEXTS


def several_splits(folder: Path) -> str:
    return "saved"


def lost_file(folder: Path) -> str:
    (folder / "saved" / "train" / "data-00000-of-00001.arrow").unlink()
    return "saved/train"


def damaged_state(folder: Path) -> str:
    (folder / "saved" / "train" / "state.json").write_text("{}")
    return "saved/train"


def cut_short(folder: Path) -> str:
    path = folder / "saved" / "train" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:300])
    return "saved/train"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (several_splits, r"saved is a dataset of the splits test, train; name the one to read, such as .*saved/test$"),
        (lost_file, r"data-00000-of-00001\.arrow is missing, but state\.json beside it lists it"),
        (damaged_state, r"state\.json is damaged \('_data_files'\); save the dataset again"),
        (cut_short, r"data-00000-of-00001\.arrow is not a readable Arrow file: "),
    ],
)
def test_a_dataset_that_cannot_be_read_is_named(tmp_path: Path, break_it: Callable[[Path], str], message: str) -> None:
    shutil.copytree(SAVED, tmp_path / "saved")
    with pytest.raises(DataError, match=message):
        read(tmp_path / break_it(tmp_path))


def test_a_column_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(DataError, match=r"arrow: data\.text_field: unknown column 'body'; there are: id, text$"):
        read(SAVED / "train", text_field="body")
    with pytest.raises(DataError, match=r"the column 'id' holds int64, not text; set data\.text_field to one that"):
        read(SAVED / "train", text_field="id")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Sixty documents of 5 to 30 tokens below 300, in Megatron's format."""
    random = np.random.default_rng(0)
    with TokenWriter(tmp_path / "given", 300) as writer:
        for _ in range(60):
            writer.add_document(random.integers(0, 300, random.integers(5, 30)).tolist())
    return tmp_path / "given.bin"


def config_of(tokens: Path, **options: object) -> DataConfig:
    fixed = {"files": str(tokens), "vocab_size": 300, "sequence_length": 8, "cache": str(tokens.parent / "cache")}
    return DataConfig(**{**fixed, "validation_fraction": 0.2, **options})


def test_given_tokens_are_kept_and_split_by_documents(tokens: Path) -> None:
    prepared = only(config_of(tokens))
    given = open_tokens(tokens.with_suffix(""))
    documents = {tuple(part.tolist()) for part in np.split(given.tokens, given.document_starts[1:])}
    splits = []
    for prefix in (prepared.train_prefix, prepared.validation_prefix):
        file = open_tokens(prefix)
        splits.append({tuple(part.tolist()) for part in np.split(file.tokens, file.document_starts[1:])})
    assert splits[0] | splits[1] == documents and not splits[0] & splits[1] and len(splits[1]) > 2
    assert prepared.train.bytes is None and not prepared.tokenizer.exists()


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shorter, r"given\.bin has [\d,]+ bytes, but its index tells of \d+ tokens of 2 bytes; one of the two is cut"),
        (lambda path: shorter(path.with_suffix(".idx")), r"given\.idx is no whole index in Megatron's format"),
        (lambda path: path.with_suffix(".idx").write_bytes(b"no index"), r"given\.idx is no whole index"),
        (
            lambda path: path.with_suffix(".idx").unlink(),
            r"there is no .*given\.idx, which tells where the documents of",
        ),
    ],
)
def test_token_files_that_do_not_belong_together_are_refused(
    tokens: Path, break_it: Callable[[Path], None], message: str
) -> None:
    break_it(tokens)
    for refuse in (prepare, check_data):
        with pytest.raises(DataError, match=message):
            refuse(config_of(tokens))


def test_a_token_beyond_the_vocabulary_is_refused(tokens: Path) -> None:
    with pytest.raises(DataError, match=r"which is none of data\.vocab_size=200; set data\.vocab_size=\d+ or more"):
        prepare(config_of(tokens, vocab_size=200))


def test_tokens_are_not_read_as_text(tokens: Path) -> None:
    with pytest.raises(DataError, match=r"matches the token file .*given\.bin; end the pattern in \.bin"):
        prepare(config_of(tokens, files=f"{tokens.parent}/*"))


def test_a_tokenizer_is_given_by_its_file_or_its_folder(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text("the falcon and the fist " * (number + 3))
    train_tokenizer(iter(["the falcon and the fist " * 9] * 9), 270).save(str(tmp_path / "tokenizer.json"))
    options = {"files": f"{tmp_path}/*.txt", "vocab_size": 270, "sequence_length": 8, "cache": str(tmp_path / "cache")}
    by_file = only(DataConfig(**options, tokenizer=str(tmp_path / "tokenizer.json")))
    by_folder = only(DataConfig(**options, tokenizer=str(tmp_path)))
    assert by_file == by_folder
    assert load_tokenizer(by_file.tokenizer).to_str() == load_tokenizer(tmp_path).to_str()
    for refuse in (prepare, check_data):
        with pytest.raises(ConfigError, match=r"data\.vocab_size=271, but .* has 270 entries; set data\.vocab"):
            refuse(DataConfig(**{**options, "vocab_size": 271}, tokenizer=str(tmp_path)))


def test_lengths_are_counted() -> None:
    told = lengths(np.array([1, 2, 3, 4, 5, 8, 100]))
    assert told.quantiles == {"shortest": 1, "tenth": 1, "median": 4, "ninetieth": 8, "longest": 100}
    assert told.histogram == {"1": 1, "2": 2, "4": 2, "8": 1, "64": 1}
    assert told.mean == pytest.approx(123 / 7)


def test_the_card_tells_what_is_read(tokens: Path) -> None:
    config = config_of(tokens)
    prepared = prepare(config)
    text = prepared.texts[""]
    (line,) = card_lines(config, prepared)
    assert line.startswith(f"Data: {text.train.tokens:,} training tokens, in {text.train.documents} documents of ")
    page = card_page(config, prepared, sequences=1000, passes=passes(config, prepared, 1000))
    assert f"| all | 1 | 1 | {text.train.documents} | {text.train.tokens:,} |" in page
    assert (
        f"| {1000 / ((text.train.tokens - 1) // 8):.3g} |" in page
        and f"`{text.hash}`" in page
        and str(text.directory) in page
    )
    first = open_tokens(text.train_prefix).tokens[: int(open_tokens(text.train_prefix).document_starts[1])]
    assert f"    {' '.join(map(str, first))}\n" in page
    assert json.loads((text.directory / "card.json").read_text())["lengths"]["quantiles"]["longest"] <= 30


def test_a_pass_over_packed_documents_is_one_over_their_rows(tokens: Path) -> None:
    config = config_of(tokens, documents="packed")
    prepared = prepare(config)
    rows = len(Packed(open_tokens(prepared.texts[""].train_prefix), config.sequence_length).rows)
    assert passes(config, prepared, 3 * rows) == {"": 3.0}
    assert rows != prepared.texts[""].train.tokens // config.sequence_length


def test_a_dry_run_knows_what_is_prepared_of_a_large_text(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(config_of(tokens))
    monkeypatch.setattr("eyas.experiments.data_check.PREPARED", 0)
    check_data(config_of(tokens))
    with pytest.raises(DataError, match=r"fewer than one sequence of data\.sequence_length=5000"):
        check_data(config_of(tokens, sequence_length=5000))
    (tokens.parent / "a.txt").write_text("short")
    with pytest.raises(DataError, match=r"holds 5 bytes, too few for a sequence of data\.sequence_length=8"):
        check_data(config_of(tokens, files=f"{tokens.parent}/*.txt"))
