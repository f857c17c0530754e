"""Decoding states as values: rows of them chosen and repeated, whole ones saved and loaded."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from eyas.core.errors import CheckpointError, DataError
from eyas.layers.model import HybridLM


@dataclass(frozen=True)
class Prefix:
    """The beginning of a text that a model has read, to be continued any number of times."""

    tokens: tuple[int, ...]
    states: Any
    """Of one sequence, behind all tokens but the last."""


def mapped(function: Callable[..., Any], *states: Any) -> Any:
    """A state of the same form with `function` of the tensors that stand at the same place."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {key: mapped(function, *(state[key] for state in states)) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(mapped(function, *parts) for parts in zip(*states, strict=True))
    return first


def row_dims(model: HybridLM) -> Any:
    """For each tensor of a model's state the dimension that runs over the sequences: the one that grows with them."""

    def growing(one: Tensor, two: Tensor) -> int:
        return next(dim for dim, size in enumerate(one.shape) if two.shape[dim] != size)

    return mapped(growing, model.initial_state(1), model.initial_state(2))


def rows(states: Any, dims: Any, chosen: Sequence[int]) -> Any:
    """A state of the chosen sequences, in that order, each as often as it is named; `dims` are those of `row_dims`."""

    def choose(tensor: Tensor, dim: int) -> Tensor:
        return tensor.index_select(dim, torch.tensor(chosen, dtype=torch.long, device=tensor.device))

    return mapped(choose, states, dims)


def save(prefix: Prefix, path: Path, model: HybridLM) -> None:
    """Writes a prefix, and which weights it belongs to, to a file that holds no code. The file appears when it is
    complete."""
    states = mapped(torch.clone, prefix.states)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        torch.save({"weights": fingerprint(model), "tokens": prefix.tokens, "states": states}, unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"the prefix cannot be written to {path}: {str(error).splitlines()[0]}") from error


def load(path: Path, model: HybridLM) -> Prefix:
    """Reads what `save` wrote. Raises DataError where there is no file, CheckpointError for a file of another kind or
    a prefix that other weights have read."""
    if not path.is_file():
        raise DataError(f"there is no prefix at {path}; save one with eyas generate --save-prefix")
    try:
        saved = torch.load(path, weights_only=True, map_location=model.context.place.device) if is_zipfile(path) else {}
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the prefix {path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(saved, dict) or saved.keys() != {"weights", "tokens", "states"}:
        raise CheckpointError(f"{path} holds no saved prefix; save one with eyas generate --save-prefix")
    if saved["weights"] != fingerprint(model):
        raise CheckpointError(f"the prefix {path} was read by other weights; save it again with this model")
    return Prefix(saved["tokens"], saved["states"])


def fingerprint(model: HybridLM) -> str:
    """A digest of all weights by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
