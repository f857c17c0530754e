"""`eyas import-hf`: a model of Hugging Face's as a run folder, to generate from, to fine-tune and to export again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from eyas.core.counted import counted
from eyas.core.errors import ConfigError, DataError
from eyas.core.model import ModelSpec, load_model
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.run_config import load_run
from eyas.experiments.tokenizer import entries, load_tokenizer, number_of
from eyas.experiments.weights_alone import weights_alone
from eyas.layers.hf import Family
from eyas.layers.hf_families import family_of_config
from eyas.layers.hf_options import model_data
from eyas.layers.hf_tensors import Shape, check_names, correspondences, layers_ahead
from eyas.layers.model import HybridLM


def import_hf(source: Path, name: str | None = None, runs: Path = Path("runs"), *, without_mtp: bool = False) -> Path:
    """Makes a run folder of the model in `source` and returns it; `without_mtp` leaves out the layers that predict
    further tokens, and says so.

    Everything is checked before the folder is made, and its checkpoint comes last: a run folder without one is not
    taken for a model. Raises ConfigError, CheckpointError or DataError naming what cannot be read.
    """
    config = hf_folder.read_config(source)
    family = family_of_config(config)
    files = hf_folder.weight_files(source)
    shapes = hf_folder.tensor_shapes(files)
    ahead = further_layers(family, config, shapes)
    if without_mtp:
        shapes = left_out(shapes, ahead)
    model = model_data(family, config, 0 if without_mtp else len(ahead))
    spec = load_model(model)
    check_names(family, spec, shapes)
    if not (source / hf_folder.TOKENIZER).is_file():
        raise DataError(
            f"{source} has no {hf_folder.TOKENIZER}; transformers' AutoTokenizer.from_pretrained(...) writes one with "
            "save_pretrained"
        )
    tokenizer = load_tokenizer(source / hf_folder.TOKENIZER)
    tokens = [tokenizer.id_to_token(number) or "" for number in range(entries(tokenizer))]
    end = hf_folder.end_of_document(source, config, tokens)
    number_of(tokenizer, end)
    if len(tokens) > spec.vocab_size:
        raise DataError(
            f"{source / hf_folder.TOKENIZER} has {len(tokens)} tokens, and the model {spec.vocab_size} (vocab_size in "
            f"{hf_folder.CONFIG}); they do not belong together"
        )
    around = tokenizer.encode("").ids
    if tokenizer.encode("a").ids[: len(around)] != around or len(around) > 1:
        what = counted(len(around), "token")
        raise DataError(f"{source / hf_folder.TOKENIZER} puts {what} around a text; one, before it, can be kept to")
    name = name or family.model_type
    data = {"vocab_size": len(tokens), "end_of_document": end}
    run = load_run({"name": name, "runs": str(runs), "model": model, "data": data})

    with weights_alone(run) as (folder, checkpoint):
        keep_files(source, folder)
        types = json.dumps(hf_folder.tensor_types(files), indent=0)
        (folder / run_folder.HUGGING_FACE / hf_folder.TYPES).write_text(types, encoding="utf-8")
        save_weights(files, family, spec, checkpoint)
    return folder


def further_layers(family: Family, config: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """What the names in layers that predict further tokens begin with; none where no file has them, as transformers
    counts such layers in config.json and does not save them."""
    layers = layers_ahead(family, config)
    return layers if any(name.startswith(tuple(layers)) for name in names) else []


def left_out(shapes: Mapping[str, Shape], layers: Sequence[str]) -> dict[str, Shape]:
    """What stays without these layers. Raises ConfigError where there are none."""
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(tuple(layers))}
    if not layers:
        raise ConfigError("--without-mtp: the model has no layers that predict further tokens; leave it out")
    print(f"Left out: {len(shapes) - len(kept)} tensors that predict further tokens ({', '.join(layers)}*)")
    return kept


def keep_files(source: Path, folder: Path) -> None:
    """Copies the tokenizer, and what tells how texts begin and end and what an export looks like."""
    shutil.copyfile(source / hf_folder.TOKENIZER, folder / run_folder.TOKENIZER)
    kept = folder / run_folder.HUGGING_FACE
    kept.mkdir()
    for name in (hf_folder.CONFIG, *hf_folder.BESIDE):
        if (source / name).is_file():
            shutil.copyfile(source / name, kept / name)


def save_weights(files: list[Path], family: Family, spec: ModelSpec, target: Path) -> None:
    """Reads the weights tensor by tensor and writes them as the checkpoint `target`."""
    from eyas.parallel import checkpoint, quiet
    from eyas.parallel.alone import alone

    quiet.install()
    model = HybridLM(spec)
    hf_folder.read_tensors(files, correspondences(family, spec), model.state_dict())
    with alone():
        checkpoint.save({"model": checkpoint.sharded_weights(model)}, target)
