"""The tokenizer of a run."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from eyas.core.errors import ConfigError, DataError
from eyas.experiments.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_tokenizer

TEXTS = ["def function(argument): return argument\n" * 3, "the falcon and the fist, the hood and the lure " * 5]
VOCABULARY = 300


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(TEXTS), VOCABULARY)


@given(text=st.one_of(st.text(), st.just(f"a{END_OF_DOCUMENT}b")))
def test_decoding_undoes_encoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_end_of_a_document_is_token_0_and_never_comes_from_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for each in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json")):
        assert each.token_to_id(END_OF_DOCUMENT) == 0
        assert 0 not in each.encode(f"a{END_OF_DOCUMENT}b").ids


def test_the_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCABULARY


def test_a_vocabulary_that_the_text_cannot_fill_is_refused_with_one_that_it_can() -> None:
    with pytest.raises(ConfigError, match=r"data\.vocab_size=9999 .* set data\.vocab_size=(\d+) or less") as refused:
        train_tokenizer(iter(TEXTS), 9999)
    possible = int(str(refused.value).split("set data.vocab_size=")[1].split()[0])
    assert train_tokenizer(iter(TEXTS), possible).get_vocab_size() == possible


def test_training_does_not_depend_on_the_process_or_its_threads() -> None:
    program = """
import hashlib, inspect, argparse, csv, difflib
from eyas.experiments.tokenizer import train_tokenizer
texts = [inspect.getsource(module) for module in (argparse, csv, difflib)]
print(hashlib.sha256(train_tokenizer(iter(texts), 1000).to_str().encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer at .*tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_file_s_truncation_and_padding_are_of_its_last_use(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text, file = "falcons " * 40, tmp_path / "tokenizer.json"
    expected = tokenizer.encode(text).ids
    last_used = Tokenizer.from_str(tokenizer.to_str())
    last_used.enable_truncation(3)
    last_used.enable_padding(length=500)
    last_used.save(str(file))
    assert load_tokenizer(file).encode(text).ids == expected
