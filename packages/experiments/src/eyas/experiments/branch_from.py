"""Branches: a run that goes on from another run's checkpoint, optimizer included, under a schedule of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.core.schema import load
from eyas.experiments import run_folder
from eyas.experiments.named_step import run_of, split_step, with_step
from eyas.experiments.prepared import Prepared
from eyas.experiments.schedule import ScheduleConfig

FREE = ("name", "runs", "branch_from", "experiment", "objective", "schedule", "layout", "sample", "logger", "profile")
"""Options that a branch may change."""
MOST_TOLD = 5
"""Options that are named as differing."""
FREE_OF_TRAINER = (
    "max_steps", "microbatch", "validation_interval", "checkpoint_interval", "keep_checkpoints", "activation_rms",
    "peak_tflops", "step_times",
)  # fmt: skip
"""Those of `trainer`; the others decide the order of samples, or how the optimizer's state is saved."""


def with_branch(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain configuration with the checkpoint of `branch_from` named in full, that of the step at which the decay
    begins where it names none. Raises ConfigError where the run differs from what it branches from in more than it may,
    CheckpointError where there is no such checkpoint."""
    found = dict(config)
    given = config.get("branch_from")
    if given is None:
        return found
    name, step = split_step(str(given), "branch_from")
    folder = run_folder.find(Path(name).resolve(), "branch_from")
    steps = config["trainer"]["max_steps"]
    if step is None:
        step = load(ScheduleConfig, config["schedule"], "schedule").before_decay(steps)
    run_folder.checkpoint_of_step(folder, step, "branch from")
    if step == 0:
        raise CheckpointError(f"{folder} holds weights alone, and no optimizer to go on with; use start_from={folder}")
    if steps <= step:
        raise ConfigError(f"trainer.max_steps={steps} leaves nothing to do behind step {step} of branch_from; raise it")
    begun = run_folder.read_config(folder / run_folder.CONFIG)
    if apart := list(differences(decided(config), decided(begun))):
        told = ", ".join(f"{option}={there} (here {here})" for option, here, there in apart[:MOST_TOLD])
        more = f" and {len(apart) - MOST_TOLD} more" if len(apart) > MOST_TOLD else ""
        raise ConfigError(
            f"branch_from={given} goes on with {told}{more}; set {'it' if len(apart) == 1 else 'them'} alike"
        )
    return found | {"branch_from": with_step(folder, step)}


def check_tokens(branch_from: str, prepared: Prepared) -> None:
    """Raises DataError where the text has changed since the run that is branched from: its tokens would mean something
    else to the model."""
    directories = run_folder.data_directories(run_of(branch_from))
    begun = {name: directory.name for name, directory in directories.items()}
    if begun != {name: text.hash for name, text in prepared.texts.items()}:
        raise DataError(
            f"branch_from={branch_from}: the text has changed since that run; bring back the text that it read"
        )


def decided(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a branch has in common with the run that it branches from. Which step that one started from is
    none of them: a branch has the weights of its checkpoint."""
    trainer = {name: value for name, value in config["trainer"].items() if name not in FREE_OF_TRAINER}
    kept = {name: value for name, value in config.items() if name not in FREE} | {"trainer": trainer}
    return kept | ({"start_from": str(run_of(kept["start_from"]))} if kept.get("start_from") else {})


def differences(here: Any, there: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain configurations differ: dotted name and both values."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in dict.fromkeys([*here, *there]):
            yield from differences(here.get(name), there.get(name), f"{path}.{name}" if path else str(name))
    elif here != there:
        yield path, here, there
