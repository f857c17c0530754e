"""`eyas resume`: go on from a run's latest checkpoint, with the tokens and the options that it had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from eyas.core.counted import counted
from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.experiments import run_folder
from eyas.experiments.hold import hold
from eyas.experiments.prepare import places, prepare
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.run_records import latest_config, read_run
from eyas.experiments.workers import JOINED, REFUSED, WORKER, check_machine, start
from eyas.parallel import checkpoint_folder
from eyas.parallel.environment import joined
from eyas.parallel.launch import Followers, follow

RESUMABLE = ("layout", "trainer", "profile", "sample")
"""Groups that may change when a run goes on; any other change would make it a different run."""
KEPT = {
    "global_batch": "the order of samples depends on it",
    "batch_ramp": "the order of samples depends on it",
    "precision": "the optimizer's state is saved in it",
}
"""Options of `trainer` that may not change, and why."""


def resume(folder: Path, overrides: Sequence[str]) -> int:
    """Goes on from a run's latest checkpoint, on the layout it had last or on another one; returns the exit code."""
    job_here = joined()
    if job_here is not None and job_here.rank > 0:
        follow(WORKER, [JOINED])
        return 0
    with Followers(WORKER, [JOINED, REFUSED]) as followers:
        run_folder.read_config(latest_config(folder))  # a folder of anything else is left alone
        with hold(folder, "trained"):
            go_on(folder, overrides, launched=followers.launched)
    return 0


def go_on(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    on_terminal: bool = True,
    launched: Callable[[], None] = lambda: None,
) -> None:
    """Goes on from a run's latest checkpoint; whoever calls holds the folder. `launched` is called before the workers
    start."""
    data = run_folder.read_config(latest_config(folder))
    if "profile" in data:
        data["profile"] = {**data["profile"], "kind": "none"}  # a trace is of the command that asks for it
    for override in overrides:
        apply(data, override)
    run = load_run(data)
    run.profile.check(check_steps_left(folder, run.trainer.max_steps))
    check_machine(run)
    if run.drawn_task is None:
        restore_data(folder, run)
    config = run_folder.add_config(folder, data)
    run_folder.write_status(folder, "running")
    launched()
    start(folder, run, config, "--resume", on_terminal=on_terminal)


def apply(data: dict[str, Any], override: str) -> None:
    """Sets `group.option=value` in plain configuration data."""
    path, equals, value = override.partition("=")
    group, _, option = path.partition(".")
    if not equals or group not in RESUMABLE or not option:
        raise ConfigError(
            f"{override!r} cannot be changed when resuming; give {', '.join(f'{g}.option=value' for g in RESUMABLE)}"
        )
    if group == "trainer" and (why := KEPT.get(option.partition(".")[0])):
        raise ConfigError(f"{override!r} cannot be given when resuming: {why}")
    try:
        data.setdefault(group, {})[option] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r} cannot be read as YAML; quote text with signs: {path}='\"a: b\"'") from error


def check_steps_left(folder: Path, max_steps: int) -> int:
    """How many steps there are to do. Raises CheckpointError without a checkpoint, and ConfigError where the latest one
    leaves nothing to do. A run that was ended between its last checkpoint and its outcome still has to write that down.
    """
    steps = checkpoint_folder.complete(folder / run_folder.CHECKPOINTS)
    if not steps:
        raise CheckpointError(f"{folder} has no complete checkpoint to go on from; start the run again with eyas train")
    done = max(steps)
    if done == 0:
        raise CheckpointError(f"{folder} holds weights alone, not a run to go on with; eyas train start_from={folder}")
    if done > max_steps or (done == max_steps and read_run(folder).state == "finished"):
        raise ConfigError(
            f"{folder} has {counted(done, 'step')} behind it and trainer.max_steps={max_steps} leaves none to do; "
            f"go on with more, such as trainer.max_steps={2 * done}"
        )
    return max_steps - done


def restore_data(folder: Path, run: RunConfig) -> None:
    """Prepares a run's tokens again where they are gone. Raises DataError where they would not be the same, since the
    model would go on with another meaning of each token."""
    recorded = run_folder.data_directories(folder)
    gone = [directory for directory in recorded.values() if not directory.is_dir()]
    if not gone:
        run_folder.read_data(folder)
        return
    origins = " and ".join(text.origin for text in run.data.texts)
    changed = DataError(
        f"the tokens of {folder} are gone from {gone[0]}, and {origins} no longer gives the same ones; "
        "bring back that folder, or the text that the run was started with"
    )
    if {name: place.name for name, place in places(run.data).items()} != {n: d.name for n, d in recorded.items()}:
        raise changed
    prepared = prepare(run.data)
    kept = folder / run_folder.TOKENIZER
    if prepared.tokenizer is not None and prepared.tokenizer.read_bytes() != kept.read_bytes():
        raise changed
    run_folder.write_data(folder, run, prepared)
