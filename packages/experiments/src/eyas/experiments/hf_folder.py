"""A folder as transformers saves it: config.json, safetensors in one file or many, tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eyas.core.errors import CheckpointError, DataError
from eyas.layers.hf_options import from_json
from eyas.layers.hf_tensors import Correspondence, Shape

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
BESIDE = (
    TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", GENERATION_CONFIG,
)  # fmt: skip
"""Files about the tokenizer and its use that an imported run keeps: what surrounds a text, and for its export."""
NO_PICKLES = (
    "which Eyas does not open because it can run any code: save the model with transformers' save_pretrained, which "
    "writes safetensors"
)
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types of tensors that float32 holds exactly, by their names in safetensors."""
TYPES = "types.json"
"""Which type each tensor of an imported model had; transformers has no such file."""


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give one with {CONFIG}, safetensors and {TOKENIZER}")
    try:
        return from_json((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{folder} is no model of Hugging Face's: {CONFIG} cannot be read ({error.strerror})"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files. Raises DataError where there are none; pickled weights are never read."""
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / INDEX} is damaged ({error})") from error
        files = [folder / name for name in names]
    else:
        files = [folder / WEIGHTS]
    for file in files:
        if not file.is_file():
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            why = f"; {pickled[0]} is a pickle, {NO_PICKLES}" if pickled else ""
            raise DataError(f"{file} is missing{why}")
    return files


def tensor_shapes(files: Iterable[Path]) -> dict[str, Shape]:
    """Shapes by name, from the files' headers. Raises CheckpointError for a type that float32 does not hold, for a name
    that two files have, and for a damaged file."""
    shapes: dict[str, Shape] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (no mapping)
                    if name in shapes:
                        raise CheckpointError(f"tensor {name!r} is in {file.name} and in another file")
                    if (dtype := stored.get_slice(name).get_dtype()) not in DTYPES:
                        raise CheckpointError(f"tensor {name!r} has type {dtype}; {', '.join(DTYPES)} can be read")
                    shapes[name] = tuple(stored.get_slice(name).get_shape())
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged ({error})") from error
    return shapes


def tensor_types(files: Iterable[Path]) -> dict[str, str]:
    """Types by name, from the headers of files that `tensor_shapes` has read."""
    types: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            types |= {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118 (no mapping)
    return types


def read_tensors(files: Iterable[Path], table: Mapping[str, Correspondence], ours: Mapping[str, Tensor]) -> None:
    """Copies every tensor of the table into ours, one at a time; then compares copies with what they repeat."""
    stored_in = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            stored_in[file] = {*stored.keys()} & table.keys()
    for repeats in (False, True):
        for file, names in stored_in.items():
            wanted = sorted(name for name in names if table[name].repeats is repeats)
            with safe_open(file, "pt") as stored:
                for name in wanted:
                    table[name].read(stored.get_tensor(name), ours)


def types_to_write(
    table: Mapping[str, Correspondence], ours: Mapping[str, Tensor], read: Mapping[str, str]
) -> dict[str, torch.dtype]:
    """The type of each tensor of the table: the one that it was read in, if those hold all tensors exactly as they are
    now; float32 otherwise, and for all."""
    usual = usual_type(DTYPES[name] for name in read.values())
    types = {name: DTYPES[read[name]] if name in read else usual for name in table}
    for name, tensor in table.items():
        if types[name] != torch.float32 and not torch.equal(now := tensor.write(ours), now.to(types[name]).to(now)):
            return dict.fromkeys(table, torch.float32)
    return types


def usual_type(types: Iterable[torch.dtype]) -> torch.dtype:
    """What most of them are; float32 where there are none."""
    return max(counts, key=counts.__getitem__) if (counts := Counter(types)) else torch.float32


def loaded_type(types: Mapping[str, torch.dtype], config: Mapping[str, Any]) -> str:
    """The type that transformers is to load a model in: the one that its imported `config` names, if its tensors still
    have their types; float32 if all are float32."""
    usual = str(usual_type(types.values())).removeprefix("torch.")
    if {*types.values()} == {torch.float32}:
        return usual
    return str(config.get("dtype") or config.get("torch_dtype") or usual)


def write_tensors(
    folder: Path,
    table: Mapping[str, Correspondence],
    ours: Mapping[str, Tensor],
    types: Mapping[str, torch.dtype],
    *,
    shard_bytes: int,
) -> None:
    """Writes all tensors, in as many files as `shard_bytes` asks for; a file is in memory at a time."""
    shards = planned(table.values(), types, shard_bytes)
    names = [
        WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    (folder / names[0]).touch()  # with the mode that others' files get too
    mode = (folder / names[0]).stat().st_mode
    for name, shard in zip(names, shards, strict=True):
        tensors = {tensor.theirs: tensor.write(ours).to(types[tensor.theirs]) for tensor in shard}
        save_file(tensors, folder / name, {"format": "pt"})
        (folder / name).chmod(mode)  # safetensors 0.8 lets the owner alone read it
    if len(shards) > 1:
        places = {tensor.theirs: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def planned(
    tensors: Iterable[Correspondence], types: Mapping[str, torch.dtype], limit: int
) -> list[list[Correspondence]]:
    """The tensors in their order, cut where a file would exceed `limit` bytes."""
    shards: list[list[Correspondence]] = [[]]
    filled = 0
    for tensor in tensors:
        size = types[tensor.theirs].itemsize * tensor.numel
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, empty where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})") from error


def ends_of_text(folder: Path) -> list[int]:
    """The tokens any of which ends a continuation: those of generation_config.json, else those of config.json, which
    transformers leaves aside where the other file names none."""
    for name in (GENERATION_CONFIG, CONFIG):
        if (numbers := read_json(folder / name).get("eos_token_id")) is not None:
            return numbers if isinstance(numbers, list) else [numbers]
    return []


def reads_special_tokens_as_text(folder: Path) -> bool:
    """Whether text that spells a special token stays text, which transformers turns into the token otherwise."""
    return bool(read_json(folder / TOKENIZER_CONFIG).get("split_special_tokens"))


def end_of_document(folder: Path, config: Mapping[str, Any], token_of: Sequence[str]) -> str:
    """The token that ends a document: config.json's eos_token_id, else the tokenizer's eos_token."""
    number = config.get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if isinstance(number, int) and 0 <= number < len(token_of):
        return token_of[number]
    token = read_json(folder / TOKENIZER_CONFIG).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str):
        raise DataError(f"{folder} names no token that ends a document: set eos_token_id in {CONFIG}")
    return token
