"""The folder of a run: claimed once, never overwritten, and holding all that is needed to repeat it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.experiments.data_card import card_page
from eyas.experiments.hold import LOCK
from eyas.experiments.named_step import run_of, step_of
from eyas.experiments.origin import Origin
from eyas.experiments.prepared import Prepared, load_prepared
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.run_records import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    ORIGIN,
    OVERRIDES,
    STATUS,
    resumed_config,
    times_resumed,
)
from eyas.parallel import checkpoint_folder

ONLY_VALUES = Origin()
CHECKPOINTS = "checkpoints"
DATA = "data.json"
CARD = "card.md"
"""What there is to know of the text of a run."""
TOKENIZER = "tokenizer.json"
SUMMARY = "summary.txt"
"""What a job of a sweep would have printed at its end, had it been alone."""
ROUTERS = "router.svg"
"""Picture of what the mixtures of experts of a finished run did."""
UNREAD = "nobody reads the output any longer"
"""Why a run failed whose output was a pipe to a program that ended."""
HUGGING_FACE = "hugging_face"
"""Folder with the files of an imported model that only an export needs."""
PACKAGES = (
    "eyas-core", "eyas-parallel", "eyas-layers", "eyas-experiments",
    "torch", "megatron-core", "lightning", "hydra-core", "mamba-ssm", "transformer-engine",
)  # fmt: skip


def claim(wanted: Path, config: Mapping[str, Any], origin: Origin = ONLY_VALUES) -> Path:
    """Makes the folder `wanted`, or the first free one of wanted-2, wanted-3, ..., this run's own, and writes down what
    was asked for. Two runs that start together get different folders."""
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        if not _write_first(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False)):
            continue
        (folder / OVERRIDES).write_text(yaml.safe_dump(origin.overrides))
        composed = {"choices": origin.choices, "seeded": origin.seeded}
        (folder / ORIGIN).write_text(yaml.safe_dump(composed, sort_keys=False))
        write_json(folder / ENVIRONMENT, environment(sys.argv if origin.command is None else origin.command))
        write_status(folder, "running")
        return folder
    raise AssertionError


def clear(folder: Path) -> None:
    """Removes what a run without a checkpoint has left in its folder, so that it can begin anew."""
    inside = [path for path in folder.iterdir() if path.name != LOCK]
    for path in sorted(inside, key=lambda path: path.name == CONFIG):  # last, since it makes a run of the folder
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def add_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Writes down what a resumed run goes on with, beside its earlier configurations; returns the file."""
    path = folder / resumed_config(times_resumed(folder) + 1)
    _write_whole(path, yaml.safe_dump(dict(config), sort_keys=False))
    return path


def write_data(folder: Path, run: RunConfig, prepared: Prepared) -> None:
    """Notes where the run's tokens are, and keeps their card and their tokenizer."""
    from eyas.experiments.batches import passes  # brings torch, which other commands do without

    directories = {name: str(text.directory.resolve()) for name, text in prepared.texts.items()}
    write_json(folder / DATA, {"directories": directories})
    sequences = run.trainer.batches.before(run.trainer.max_steps)
    _write_whole(folder / CARD, card_page(run.data, prepared, sequences, passes(run.data, prepared, sequences)))
    if prepared.tokenizer is not None:
        shutil.copyfile(prepared.tokenizer, folder / TOKENIZER)


def data_directories(folder: Path) -> dict[str, Path]:
    """Where the tokens of each of the run's texts are, or were when it was started."""
    return {name: Path(path) for name, path in json.loads((folder / DATA).read_text())["directories"].items()}


def read_data(folder: Path) -> Prepared:
    """The run's tokens."""
    return Prepared({name: load_prepared(directory) for name, directory in data_directories(folder).items()})


def read_config(path: Path) -> dict[str, Any]:
    """The plain data of a run's configuration file. Raises DataError where there is none."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise DataError(f"{path.parent} is no run folder: {path.name} cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is damaged: it holds no options")
    return data


def find(path: Path, option: str = "") -> Path:
    """The run folder that `path` is, or the newest run in it: runs/NAME stands for its latest. Raises DataError where
    there is none; `option` is where the path was given, if not as an argument."""
    asked = f"{option}: " * bool(option)
    if not path.is_dir():
        raise DataError(f"{asked}there is no folder {path}; eyas results runs lists the runs there are")
    if (path / CONFIG).exists():
        return path
    jobs = [config.parent for config in path.glob(f"*/*/{CONFIG}") if config.parent.name.isdigit()]
    runs = [config.parent for config in path.glob(f"*/{CONFIG}")] + jobs
    if not runs:
        raise DataError(f"{asked}{path} is no run folder, and has none in it")
    return max(runs, key=lambda run: (run.relative_to(path).parts[0], int(run.name) if run in jobs else 0))


def open_run(folder: Path) -> RunConfig:
    """The configuration that a run folder was made with."""
    return load_run(read_config(folder / CONFIG))


def check_checkpoint(folder: Path, purpose: str) -> None:
    """Raises CheckpointError where the folder has no complete checkpoint."""
    if not checkpoint_folder.complete(folder / CHECKPOINTS):
        raise CheckpointError(f"{folder} has no complete checkpoint to {purpose} with eyas train")


def checkpoint_of_step(folder: Path, step: int, purpose: str) -> Path:
    """The complete checkpoint of a step. Raises CheckpointError where the run does not have it."""
    checkpoints = checkpoint_folder.complete(folder / CHECKPOINTS)
    if step not in checkpoints:
        known = ", ".join(map(str, sorted(checkpoints))) or "none"
        raise CheckpointError(f"{folder} has no checkpoint of step {step} to {purpose}; it has {known}")
    return checkpoints[step]


def named_checkpoint(named: str) -> Path:
    """The checkpoint called RUN@STEP. Raises CheckpointError where there is none: it may have gone since."""
    return checkpoint_of_step(run_of(named), step_of(named), "go on from")


def check_text(folder: Path, wanted: str) -> None:
    """Raises ConfigError where the run did not learn from text."""
    run = open_run(folder)
    if run.drawn_task is not None:
        raise ConfigError(f"{folder} learnt task {run.task['kind']}, which has no {wanted}")
    if not run.data.has_tokenizer:
        raise ConfigError(f"{folder} learnt from tokens without a tokenizer, so there is no {wanted}")


def write_status(folder: Path, state: str, error: str = "") -> None:
    """running, finished or failed; with the error's first line."""
    write_json(folder / STATUS, {"state": state, "error": error})


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """What a run ended with."""
    write_json(folder / METRICS, dict(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """What a finished run ended with."""
    return dict(json.loads((folder / METRICS).read_text()))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    _write_whole(path, json.dumps(data, indent=2) + "\n")


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".unfinished")
    beside.write_text(text)
    beside.replace(path)


def _write_first(path: Path, text: str) -> bool:
    """Writes the file whole, unless there is one; whether it did."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    beside.write_text(text)
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def environment(command: Sequence[str]) -> dict[str, Any]:
    """Command, machine, interpreter, versions and the state of the source, as far as they can be told."""
    return {
        "command": list(command),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit of the current folder, and whether files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(changes.stdout.strip())}
