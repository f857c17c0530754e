"""Which documents a run reads."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from eyas.core.errors import ConfigError, DataError
from eyas.experiments import corpus
from eyas.experiments.corpus import Corpus, Source, place
from eyas.experiments.data_config import DataConfig
from eyas.experiments.documents import read_documents

NAMES = ["a.txt", "b/c.txt", "b/d.txt", "e.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}")
    return tmp_path


def check(config: DataConfig) -> Corpus:
    return corpus.check(*config.texts)


def find_files(config: DataConfig) -> tuple[Source, ...]:
    return corpus.find_files(*config.texts)


def names(found: Corpus) -> list[str]:
    return [source.name for source in found.sources]


def texts(found: Corpus, split: str | None = None) -> list[str]:
    return [text for _, text in found.documents(split)]


def read(path: Path, config: DataConfig = DataConfig()) -> list[str]:  # noqa: B008 (it is frozen)
    return [text for _, text in read_documents(path, path.name, *config.texts)]


def test_files_are_found_in_the_order_of_their_names_below_the_pattern(folder: Path) -> None:
    assert names(check(DataConfig(files=f"{folder}/**/*.txt"))) == NAMES


def test_a_relative_pattern_finds_the_same_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [source.name for source in find_files(DataConfig(files="**/*.txt"))] == NAMES
    assert [source.name for source in find_files(DataConfig(files="a.txt"))] == ["a.txt"]


def test_without_files_the_standard_library_is_read_and_its_tests_are_not() -> None:
    found = {source.name for source in find_files(DataConfig())}
    assert {"dataclasses.py", "json/decoder.py"} <= found
    assert not [name for name in found if {"test", "tests", "site-packages"} & set(name.split("/"))]


def test_the_splits_are_disjoint_and_together_the_corpus(folder: Path) -> None:
    found = check(DataConfig(files=f"{folder}/**/*.txt", validation_fraction=0.5))
    train, validation = texts(found, "train"), texts(found, "validation")
    assert sorted(train + validation) == sorted(texts(found))
    assert train and validation


@pytest.mark.parametrize("fraction", [1e-12, 1 - 1e-12])
def test_both_splits_have_a_document_whatever_the_fraction(folder: Path, fraction: float) -> None:
    found = check(DataConfig(files=f"{folder}/**/*.txt", validation_fraction=fraction))
    assert texts(found, "train") and texts(found, "validation")


def test_a_document_keeps_its_split_when_others_are_added(folder: Path) -> None:
    config = DataConfig(files=f"{folder}/**/*.txt", validation_fraction=0.5)
    before = {text: split for split, text in check(config).documents()}
    for number in range(20):
        (folder / f"0{number}.txt").write_text(f"another {number}")
    after = {text: split for split, text in check(config).documents()}
    assert after.items() >= before.items()


def test_the_share_of_validation_documents_follows_the_fraction() -> None:
    below = sum(place(f"document {number}") < 0.05 * 2**64 for number in range(20_000))
    assert below == pytest.approx(1000, abs=5 * 31)  # five standard deviations of a binomial


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), min_size=1))
def test_separated_documents_join_to_the_file(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "all.txt"
    path.write_bytes("\0".join(documents).encode())
    assert read(path, DataConfig(document_separator="\0")) == documents


def test_separators_and_characters_across_blocks_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyas.experiments.documents.BLOCK", 3)
    path = tmp_path / "all.txt"
    documents = ["naïve €5", "𝄞 and 𝄢", "end\r\n"]
    path.write_bytes("<|end|>".join(documents).encode())
    assert read(path, DataConfig(document_separator="<|end|>")) == documents


@given(st.lists(st.sampled_from(["a", "aa", "ab", "b"]), max_size=12), st.integers(1, 5))
def test_documents_do_not_depend_on_the_blocks_that_are_read(
    tmp_path_factory: pytest.TempPathFactory, letters: list[str], block: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "all.txt"
    path.write_text("".join(letters))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eyas.experiments.documents.BLOCK", block)
        assert read(path, DataConfig(document_separator="aab")) == [d for d in "".join(letters).split("aab") if d]


def test_a_file_that_a_pattern_finds_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "lib" / "lib").mkdir(parents=True)
    (tmp_path / "lib" / "lib" / "a.txt").write_text("a")
    found = find_files(DataConfig(files=f"{tmp_path}/**/lib/**/*.txt"))
    assert [source.name for source in found] == ["lib/lib/a.txt"]


def test_text_fields_of_jsonl_and_parquet_are_documents(tmp_path: Path) -> None:
    rows = [{"id": 1, "body": "first\nline"}, {"id": 2, "body": ""}, {"id": 3, "body": "𝄞"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        assert read(tmp_path / name, DataConfig(text_field="body")) == ["first\nline", "𝄞"]


def not_utf8(folder: Path) -> str:
    (folder / "a.txt").write_bytes(b"caf\xe9 au lait")
    return "**/*.txt"


def broken_json(folder: Path) -> str:
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n')
    return "*.jsonl"


def wrong_field(folder: Path) -> str:
    (folder / "rows.jsonl").write_text('{"texts": "a"}\n')
    return "*.jsonl"


def half_a_character(folder: Path) -> str:
    (folder / "rows.jsonl").write_text('{"text": "\\ud83d"}\n')
    return "*.jsonl"


def not_parquet(folder: Path) -> str:
    (folder / "rows.parquet").write_text("no table")
    return "*.parquet"


def numbers_in_parquet(folder: Path) -> str:
    parquet.write_table(pyarrow.table({"text": [1, 2]}), folder / "rows.parquet")
    return "*.parquet"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (not_utf8, r"a\.txt is not UTF-8 at byte 3;"),
        (broken_json, r"rows\.jsonl line 2 is not JSON"),
        (wrong_field, r"rows\.jsonl line 1: data\.text_field: unknown field 'text'; did you mean 'texts'\?"),
        (half_a_character, r"rows\.jsonl line 1: the field 'text' holds half a character"),
        (not_parquet, r"rows\.parquet is not a readable parquet file"),
        (numbers_in_parquet, r"rows\.parquet: the column 'text' holds int64, not text"),
        (lambda folder: "*.md", r"data\.files=.*\*\.md matches no file"),
        (lambda folder: "b", r"matches no file; for the files inside a folder write .*/b/\*\*/\*\.txt"),
        (lambda folder: "a.txt", r"data\.files=.*a\.txt holds a single document"),
    ],
)
def test_unusable_files_are_refused_by_name(folder: Path, break_it: Callable[[Path], str], message: str) -> None:
    pattern = break_it(folder)
    with pytest.raises(DataError, match=message):
        check(DataConfig(files=f"{folder}/{pattern}"))


@given(st.binary(max_size=40))
def test_the_byte_of_a_bad_character_is_the_one_that_python_reports(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eyas.experiments.documents.BLOCK", 4)
        try:
            expected = content.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(DataError, match=f"not UTF-8 at byte {error.start};"):
                read(path)
        else:
            assert read(path) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("vocab_size", 256),
        ("sequence_length", 0),
        ("validation_sequences", 0),
        ("document_separator", ""),
        ("seed", -1),
    ],
)
def test_impossible_options_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{field}"):
        dataclasses.replace(DataConfig(), **{field: value})
