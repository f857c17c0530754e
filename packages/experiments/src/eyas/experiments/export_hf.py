"""`eyas export-hf`: a run's latest checkpoint as a folder that transformers loads as it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import processors

from eyas.core.errors import DataError
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.generate import load_model
from eyas.experiments.tokenizer import load_tokenizer, number_of
from eyas.layers.hf_families import family_of_model
from eyas.layers.hf_options import to_json
from eyas.layers.hf_tensors import correspondences

SHARD_BYTES = 5_000_000_000
KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Options that an imported model keeps although they change nothing here."""


def export_hf(run: Path, target: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes config.json, safetensors and tokenizer to `target`, which appears only when it is complete.

    Raises ConfigError for a model that no family of Hugging Face's can express, DataError for a target that exists.
    """
    if target.exists():
        raise DataError(f"{target} exists already; give a folder that does not")
    run_folder.check_text(run, "tokenizer to export")
    spec = run_folder.open_run(run).spec
    family, config = family_of_model(spec)
    table = correspondences(family, spec)
    model = load_model(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as building:
        folder = Path(building) / "model"
        folder.mkdir()
        imported, weights = run / run_folder.HUGGING_FACE, model.state_dict()
        types = hf_folder.types_to_write(table, weights, hf_folder.read_json(imported / hf_folder.TYPES))
        hf_folder.write_tensors(folder, table, weights, types, shard_bytes=shard_bytes)
        kept = hf_folder.read_json(imported / hf_folder.CONFIG)
        tokens = write_tokenizer(run, folder) | {key: kept[key] for key in KEPT if key in kept}
        told = {**config, "dtype": hf_folder.loaded_type(types, kept), **tokens}
        (folder / hf_folder.CONFIG).write_text(to_json(told), encoding="utf-8")
        folder.rename(target)


def write_tokenizer(run: Path, folder: Path) -> dict[str, Any]:
    """Writes the tokenizer's files and returns the options of config.json that go with them.

    An imported tokenizer is written as it was. One of ours gets what `eyas generate` does besides: a text begins with
    the end of the document before it, and special tokens are not read out of text.
    """
    data = run_folder.open_run(run).data
    tokenizer = load_tokenizer(run / run_folder.TOKENIZER)
    end = number_of(tokenizer, data.end_of_document)
    imported = run / run_folder.HUGGING_FACE
    if imported.is_dir():
        shutil.copyfile(run / run_folder.TOKENIZER, folder / hf_folder.TOKENIZER)
        for name in hf_folder.BESIDE:
            if (imported / name).is_file():
                shutil.copyfile(imported / name, folder / name)
    else:
        if not tokenizer.encode("").ids:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{data.end_of_document} $A", special_tokens=[(data.end_of_document, end)]
            )
        tokenizer.save(str(folder / hf_folder.TOKENIZER))
        options = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": data.end_of_document,
            "eos_token": data.end_of_document,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        (folder / hf_folder.TOKENIZER_CONFIG).write_text(json.dumps(options, indent=2) + "\n")
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
