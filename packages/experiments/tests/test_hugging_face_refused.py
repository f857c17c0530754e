"""Folders of models that cannot be imported, and models that cannot be exported: each is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors

from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.export_hf import export_hf
from eyas.experiments.generate import load_model
from eyas.experiments.import_hf import import_hf
from eyas.experiments.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

from hf_folders import VOCABULARY, damaged, with_option  # noqa: E402


def test_a_token_behind_a_text_is_refused(place, llama):
    folder = damaged(place, llama, "closed")
    tokenizer = load_tokenizer(folder)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", VOCABULARY - 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match="puts 1 token around a text; one, before it, can be kept to"):
        import_hf(folder, "refused", place / "runs")


def test_leaving_out_layers_that_are_not_there_is_refused(place, llama):
    with pytest.raises(ConfigError, match="no layers that predict further tokens; leave it out"):
        import_hf(llama[0], "nothing", place / "runs", without_mtp=True)
    assert not (place / "runs" / "nothing").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(place, llama):
    folder = damaged(place, llama, "longer-tokenizer")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["falconry"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match=r"has 281 tokens, and the model 280 \(vocab_size in config.json\)"):
        import_hf(folder, "refused", place / "runs")


REFUSED = {
    "quantization_config": {"bits": 4},
    "sliding_window": 128,
    "hidden_act": "gelu_new",
    "attention_dropout": 0.1,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "model_type": "lama",
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_cannot_be_kept_to_are_refused_by_name(place, llama, option):
    folder = damaged(place, llama, option)
    with_option(folder, **{option: REFUSED[option]})
    with pytest.raises(ConfigError, match=f"^config.json: .*{option}.*$"):
        import_hf(folder, "refused", place / "runs")
    assert not (place / "runs" / "refused").exists()


def test_pickles_are_refused(place, llama):
    folder = damaged(place, llama, "pickle")
    (folder / hf_folder.WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pytorch_model.bin is a pickle"):
        import_hf(folder, "refused", place / "runs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "'model.norm.weight' is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "'extra' has no place"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(2)}), "'model.norm.weight' has shape"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(2).char()}), "has type I8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(place, llama, change, message):
    folder = damaged(place, llama, "tensors")
    tensors = load_file(folder / hf_folder.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / hf_folder.WEIGHTS)
    try:
        with pytest.raises(CheckpointError, match=message):
            import_hf(folder, "refused", place / "runs")
    finally:
        shutil.rmtree(folder)


def test_a_failed_import_leaves_no_model(place, llama, monkeypatch):
    monkeypatch.setattr(hf_folder, "read_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        import_hf(llama[0], "gone", place / "runs")
    (folder,) = (place / "runs" / "gone").iterdir()
    assert json.loads((folder / run_folder.STATUS).read_text())["state"] == "failed"
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_model(folder)


def test_an_export_overwrites_nothing(place, llama):
    run = import_hf(llama[0], "once", place / "runs")
    (place / "taken").mkdir()
    with pytest.raises(DataError, match="taken exists already"):
        export_hf(run, place / "taken")


@pytest.mark.parametrize("option", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_missing_size_is_named(place, llama, option):
    folder = damaged(place, llama, f"without-{option}")
    config = json.loads((folder / "config.json").read_text())
    del config[option], config["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^config.json: ({option}|head_dim) is missing$"):
        import_hf(folder, "refused", place / "runs")
