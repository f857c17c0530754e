"""What stands before and behind the texts of a run, by where its tokenizer comes from."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors

from eyas.experiments import hf_folder, run_folder
from eyas.experiments.run_tokenizer import open_tokenizer

CONFIG: dict[str, Any] = {
    "model": {"hidden_size": 8, "vocab_size": 300, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}},
    "data": {"files": "*.txt", "vocab_size": 300, "end_of_document": "[end]"},
}


def a_run(place: Path, template: str, files: dict[str, dict[str, Any]] | None = None) -> Path:
    """A run with a tokenizer of three words and a special token; with `files` it is an imported one."""
    folder = run_folder.claim(place / "run", CONFIG)
    tokenizer = Tokenizer(models.WordLevel({"[end]": 0, "[b]": 1, "a": 2}, unk_token="a"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("[b]", 1)])
    tokenizer.save(str(folder / run_folder.TOKENIZER))
    if files is not None:
        (folder / run_folder.HUGGING_FACE).mkdir()
        for name, options in files.items():
            (folder / run_folder.HUGGING_FACE / name).write_text(json.dumps(options))
    return folder


@pytest.mark.parametrize(("template", "first"), [("$A", (0,)), ("[b] $A", (1,)), ("$A [b]", (1,))])
def test_a_text_of_a_run_trained_here_is_opened_and_never_closed(tmp_path, template, first):
    texts = open_tokenizer(a_run(tmp_path, template))
    assert texts.first == first
    assert texts.begun([2]) == [*first, 2]
    assert (texts.end, texts.ends) == (0, {0})


@pytest.mark.parametrize(("template", "first", "empty"), [("$A", (), [0]), ("[b] $A", (1,), [1])])
def test_nothing_is_put_before_a_text_that_transformers_would_not_put_there(tmp_path, template, first, empty):
    texts = open_tokenizer(a_run(tmp_path, template, {}))
    assert texts.first == first
    assert texts.begun([2]) == [*first, 2]
    assert texts.begun([]) == empty


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 2}, None, {2}),
        ({"eos_token_id": [0, 2]}, None, {0, 2}),
        ({"eos_token_id": 0}, {"eos_token_id": [1, 2]}, {1, 2}),
        ({"eos_token_id": [0, 1]}, {"do_sample": False}, {0, 1}),
        ({}, None, {0}),
    ],
)
def test_any_of_the_end_tokens_of_the_configurations_ends_a_text(tmp_path, config, generation, ends):
    files = {hf_folder.CONFIG: config}
    if generation is not None:
        files[hf_folder.GENERATION_CONFIG] = generation
    assert open_tokenizer(a_run(tmp_path, "$A", files)).ends == ends


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        (None, [2]),
        ({hf_folder.TOKENIZER_CONFIG: {}}, [3]),
        ({hf_folder.TOKENIZER_CONFIG: {"split_special_tokens": True}}, [2]),
    ],
)
def test_text_that_spells_a_special_token_is_read_as_transformers_reads_it(tmp_path, files, tokens):
    """Where it stays text, it is a word that this tokenizer does not know, "a" therefore."""
    assert open_tokenizer(a_run(tmp_path, "$A", files)).encode("<s>") == tokens
