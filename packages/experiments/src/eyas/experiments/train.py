"""`eyas train` and `eyas resume`: check, claim a folder, start the workers, say how it went."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eyas.core.errors import CheckpointError, ConfigError, EyasError
from eyas.experiments import run_folder
from eyas.experiments.compose import Job, compose
from eyas.experiments.compose_errors import UPSTREAM, explain
from eyas.experiments.dry_run import print_dry_run
from eyas.experiments.prepare import prepare
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.summary import print_summary
from eyas.parallel.environment import joined
from eyas.parallel.launch import launch

WORKER = "eyas.experiments.worker"


def train(arguments: Sequence[str], *, dry_run: bool) -> int:
    """Runs what Hydra's command line asks for; returns the exit code. In a multirun a failed job does not stop the
    others."""
    failures: list[EyasError] = []

    def run(job: Job) -> None:
        try:
            train_one(job, dry_run=dry_run)
        except EyasError as error:
            if job.number is None:
                raise
            failures.append(error)
            print(f"job {job.number} ({' '.join(job.overrides)}): {error}", file=sys.stderr)

    try:
        compose(arguments, run)
    except UPSTREAM as error:
        raise explain(error) from error
    return max((failure.exit_code for failure in failures), default=0)


def train_one(job: Job, *, dry_run: bool) -> None:
    """Checks and runs one configuration."""
    run = load_run(job.config)
    if dry_run:
        print_dry_run(run)
        return
    check_machine(run)
    if job.number is not None:
        print(f"job {job.number}: {' '.join(job.overrides)}")
    prepare(run.data)
    folder = run_folder.claim(job.folder, job.config, job.overrides)
    start(folder, run, folder / run_folder.CONFIG)


def resume(folder: Path, overrides: Sequence[str]) -> int:
    """Goes on from a run's latest checkpoint, on the layout it had or on another one; returns the exit code."""
    data = run_folder.read_config(folder / run_folder.CONFIG)
    for override in overrides:
        apply(data, override)
    run = load_run(data)
    check_machine(run)
    if not any((folder / run_folder.CHECKPOINTS).glob("step-*[0-9]")):
        raise CheckpointError(f"{folder} has no complete checkpoint to go on from; start the run again with eyas train")
    number = 1
    while (config := folder / f"resume-{number}.yaml").exists():
        number += 1
    config.write_text(yaml.safe_dump(data, sort_keys=False))
    start(folder, run, config, "--resume")
    return 0


RESUMABLE = ("layout", "trainer", "sample")
"""Groups that may change when a run goes on; any other change would make it a different run."""


def apply(data: dict[str, Any], override: str) -> None:
    """Sets `group.option=value` in plain configuration data."""
    path, equals, value = override.partition("=")
    group, _, option = path.partition(".")
    if not equals or group not in RESUMABLE or not option:
        raise ConfigError(
            f"{override!r} cannot be changed when resuming; give {', '.join(f'{g}.option=value' for g in RESUMABLE)}"
        )
    data.setdefault(group, {})[option] = yaml.safe_load(value)


def check_machine(run: RunConfig) -> None:
    """Raises LayoutError where the job at hand cannot carry the layout."""
    job = joined()
    if job is not None:
        run.layout.check_world(job.world_size)
    else:
        import torch

        from eyas.parallel.layout import processes_here

        run.layout.check_machine(processes_here(torch.cuda.device_count()))


def start(folder: Path, run: RunConfig, config: Path, *flags: str) -> None:
    """Runs the workers to their end and prints what came of it."""
    try:
        launch(folder, WORKER, [str(folder), "--config", str(config), *flags], run.layout.processes)
    except EyasError as error:
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0])
        raise type(error)(f"{error} (run folder: {folder})") from error
    except KeyboardInterrupt:
        run_folder.write_status(folder, "failed", "interrupted")
        raise
    print_summary(folder, run)
