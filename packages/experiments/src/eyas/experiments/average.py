"""`eyas average`: the mean of checkpoints' weights as a run folder of its own (Izmailov et al., 2018; Wortsman et al.,
2022)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from eyas.core.errors import CheckpointError, ConfigError
from eyas.experiments import run_folder
from eyas.experiments.generate import load_model
from eyas.experiments.upcycle import UpcycleConfig
from eyas.experiments.weights_alone import weights_alone
from eyas.parallel import checkpoint_folder

KEPT = (run_folder.TOKENIZER, run_folder.HUGGING_FACE)
"""What a run folder has beside its weights for those who read or export text."""


def average(
    folders: Sequence[Path], name: str | None = None, *, last: int | None = None, steps: Sequence[int] = ()
) -> Path:
    """Makes a run folder of the mean of checkpoints and returns it: those of one run, all, the `last` few or those of
    `steps`; or the latest one of each of several runs of one model.

    Raises ConfigError where the runs' models or tokenizers differ, CheckpointError where there is no such checkpoint.
    """
    if last is not None and last < 1:
        raise ConfigError(f"the last {last} are none; give a number of at least 1")
    found = [path for folder in folders for path in checkpoints(folder, last, steps, several=len(folders) > 1)]
    if len(found) < 2:
        raise CheckpointError(f"{found[0]} is the only checkpoint there is to average; give several runs")
    first = run_folder.open_run(folders[0])
    check_alike(folders)
    name = name or f"{first.name}-average"
    run = replace(first, name=name, start_from=None, branch_from=None, upcycle=UpcycleConfig())
    with weights_alone(run, averaged=len(found)) as (folder, checkpoint):
        for kept in KEPT:
            if (source := folders[0] / kept).is_dir():
                shutil.copytree(source, folder / kept)
            elif source.is_file():
                shutil.copyfile(source, folder / kept)
        save_mean(folders[0], found, checkpoint)
    return folder


def checkpoints(folder: Path, last: int | None, steps: Sequence[int], *, several: bool) -> Iterator[Path]:
    """What is taken of one run, in order."""
    there = checkpoint_folder.complete(folder / run_folder.CHECKPOINTS)
    if not there:
        raise CheckpointError(f"{folder} has no complete checkpoint to average; train it with eyas train")
    missing = [step for step in steps if step not in there]
    if missing or len(there) < (last or 0):
        wanted = f"none of step {missing[0]}" if missing else f"{len(there)} of the last {last}"
        raise CheckpointError(f"{folder} has {wanted}; there are: {', '.join(map(str, sorted(there)))}")
    taken = steps or sorted(there)[-(last or (1 if several else len(there))) :]
    yield from (there[step] for step in taken)


def check_alike(folders: Sequence[Path]) -> None:
    """Raises ConfigError where runs' weights do not mean the same."""
    first, tokenizer = run_folder.open_run(folders[0]), folders[0] / run_folder.TOKENIZER
    for folder in folders[1:]:
        run = run_folder.open_run(folder)
        if run.spec != first.spec:
            raise ConfigError(
                f"{folder} ({run.spec.name}) has another model than {folders[0]} ({first.spec.name}); average runs of "
                "one model"
            )
        other = folder / run_folder.TOKENIZER
        if tokenizer.exists() != other.exists() or (
            tokenizer.exists() and tokenizer.read_bytes() != other.read_bytes()
        ):
            raise ConfigError(f"{folder} has another tokenizer than {folders[0]}; average runs of one tokenizer")


def save_mean(run: Path, paths: Sequence[Path], target: Path) -> None:
    """Adds the checkpoints up one after the other, in float64, and writes their mean as the checkpoint `target`.
    What is not trained, a router's selection bias say, is averaged too."""
    from eyas.parallel import checkpoint
    from eyas.parallel.alone import alone

    model = load_model(run, paths[0])
    totals = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in model.state_dict().items()}
    for path in paths:
        for name, tensor in load_model(run, path).state_dict().items():
            totals[name] += tensor
    mean: dict[str, Tensor] = {name: total / len(paths) for name, total in totals.items()}
    model.load_state_dict(mean)
    with alone():
        checkpoint.save({"model": checkpoint.sharded_weights(model)}, target)
