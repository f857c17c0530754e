"""`eyas import-hf`: a model of Hugging Face's as a run folder, to generate from, to fine-tune and to export again."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from eyas.core.accounting import parameters
from eyas.core.errors import DataError
from eyas.core.model import ModelSpec, load_model
from eyas.core.schema import dump
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.run_config import load_run
from eyas.experiments.tokenizer import entries, load_tokenizer, number_of
from eyas.layers.hf import Family
from eyas.layers.hf_families import family_of_config
from eyas.layers.hf_options import model_data
from eyas.layers.hf_tensors import check_names, correspondences
from eyas.layers.model import HybridLM


def import_hf(source: Path, name: str | None = None, runs: Path = Path("runs")) -> Path:
    """Makes a run folder of the model in `source` and returns it.

    Everything is checked before the folder is made, and its checkpoint comes last: a run folder without one is not
    taken for a model. Raises ConfigError, CheckpointError or DataError naming what cannot be read.
    """
    config = hf_folder.read_config(source)
    family = family_of_config(config)
    model = model_data(family, config)
    spec = load_model(model)
    files = hf_folder.weight_files(source)
    check_names(family, spec, hf_folder.tensor_shapes(files))
    if not (source / hf_folder.TOKENIZER).is_file():
        raise DataError(
            f"{source} has no {hf_folder.TOKENIZER}; transformers' AutoTokenizer.from_pretrained(...) writes one with "
            "save_pretrained"
        )
    tokenizer = load_tokenizer(source / hf_folder.TOKENIZER)
    tokens = [tokenizer.id_to_token(number) or "" for number in range(entries(tokenizer))]
    end = hf_folder.end_of_document(source, config, tokens)
    number_of(tokenizer, end)
    if len(tokenizer.encode("").ids) > 1:
        raise DataError(
            f"{source / hf_folder.TOKENIZER} puts several tokens around a text; one, before it, can be kept to"
        )
    name = name or family.model_type
    data = {"vocab_size": len(tokens), "end_of_document": end}
    run = load_run({"name": name, "runs": str(runs), "model": model, "data": data})

    folder = run_folder.claim(runs / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}", dump(run), [])
    try:
        keep_files(source, folder)
        save_weights(files, family, spec, folder)
    except BaseException as error:
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0] or type(error).__name__)
        raise
    run_folder.write_metrics(folder, {"steps": 0, "parameters": parameters(spec)})
    run_folder.write_status(folder, "finished")
    return folder


def keep_files(source: Path, folder: Path) -> None:
    """Copies the tokenizer, and what only an export needs."""
    shutil.copyfile(source / hf_folder.TOKENIZER, folder / run_folder.TOKENIZER)
    kept = folder / run_folder.HUGGING_FACE
    kept.mkdir()
    for name in (hf_folder.CONFIG, *hf_folder.BESIDE):
        if (source / name).is_file():
            shutil.copyfile(source / name, kept / name)


def save_weights(files: list[Path], family: Family, spec: ModelSpec, folder: Path) -> None:
    """Reads the weights tensor by tensor and writes the run's first checkpoint, of step 0."""
    from eyas.parallel import checkpoint, quiet
    from eyas.parallel.alone import alone

    quiet.install()
    model = HybridLM(spec)
    hf_folder.read_tensors(files, correspondences(family, spec), model.state_dict())
    with alone():
        weights = checkpoint.sharded_weights(model)
        checkpoint.save({"model": weights}, folder / run_folder.CHECKPOINTS / "step-00000000")
