"""`eyas train`: check, claim a folder, start the workers, say how it went."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from eyas.core.errors import ConfigError, EyasError
from eyas.experiments import run_folder
from eyas.experiments.branch_from import with_branch
from eyas.experiments.compose import Job, compose
from eyas.experiments.compose_errors import UPSTREAM, explain, with_hint
from eyas.experiments.derived import with_derived
from eyas.experiments.dry_run import print_dry_run
from eyas.experiments.prepare import prepare
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.start_from import keep_imported_files, with_start
from eyas.experiments.summary import print_summary
from eyas.experiments.trackers import asked_for, check_installed
from eyas.parallel.environment import joined
from eyas.parallel.launch import follow, launch

WORKER = "eyas.experiments.worker"
JOINED = "--joined"
"""Tells a worker that rank 0 hands out the run's folder to the others."""


def train(arguments: Sequence[str], *, dry_run: bool) -> int:
    """Runs what Hydra's command line asks for; returns the exit code. In a multirun a failed job does not stop the
    others. Inside a torchrun or SLURM job, rank 0 composes and the others follow it, where there is one run to follow.
    """
    job_here = joined()
    if job_here is not None and job_here.rank > 0:
        if not (dry_run or {"--cfg", "--multirun"} & {*arguments}):
            follow(WORKER, [JOINED])
        return 0
    failures: list[EyasError] = []
    multirun = False

    def run(job: Job) -> None:
        nonlocal multirun
        multirun = job.number is not None
        try:
            if multirun:
                if job_here is not None:
                    raise ConfigError(
                        f"a multirun cannot share one {job_here.launcher} job; start each configuration by itself"
                    )
                print(f"job {job.number}: {' '.join(job.overrides)}", flush=True)
            train_one(job, dry_run=dry_run)
        except EyasError as error:  # not raised here: Hydra would say a line of its own, and end the multirun
            failures.append(error)
            if multirun:
                note_failure(job, error, dry_run=dry_run)

    try:
        compose(arguments, run)
    except UPSTREAM as error:
        raise explain(error, arguments) from error
    if failures and not multirun:
        raise failures[0]
    if failures:
        raise type(failures[0])(f"{len(failures)} of the jobs failed; eyas results shows them beside the others")
    return 0


def note_failure(job: Job, error: EyasError, *, dry_run: bool) -> None:
    """Says which job of a multirun failed, and leaves a run folder that says so too."""
    print(f"eyas: job {job.number} ({' '.join(job.overrides)}): {error}", file=sys.stderr)
    if not dry_run and not job.folder.exists():
        folder = run_folder.claim(job.folder, job.config, job.overrides)
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0])


def train_one(job: Job, *, dry_run: bool) -> None:
    """Checks and runs one configuration."""
    config = with_branch(with_derived(with_start(job), job.overrides))
    try:
        run = load_run(config)
    except ConfigError as error:
        raise with_hint(error, job.overrides) from error
    if dry_run:
        print_dry_run(run)
        return
    check_machine(run)
    prepared = prepare(run.data) if run.drawn_task is None else None
    folder = run_folder.claim(job.folder, config, job.overrides)
    keep_imported_files(run.start_from, folder)
    if prepared is not None:
        run_folder.write_data(folder, prepared)
    start(folder, run, folder / run_folder.CONFIG)


def check_machine(run: RunConfig) -> None:
    """Raises LayoutError where the job at hand cannot carry the layout, ConfigError where it lacks an option's GPU
    or package."""
    import torch

    check_installed(asked_for(run.logger))
    cuda = torch.cuda.is_available()
    run.optimizer.check_device(cuda)
    for name, layer in run.spec.layers.items():
        try:
            layer.check_device(cuda)
        except ConfigError as error:
            raise ConfigError(f"model.layers.{name} ({layer.kind}): {error}") from error
    job = joined()
    if job is not None:
        run.layout.check_world(job.world_size)
    else:
        from eyas.parallel.layout import processes_here

        run.layout.check_machine(processes_here(torch.cuda.device_count()))


def start(folder: Path, run: RunConfig, config: Path, *flags: str) -> None:
    """Runs the workers to their end and prints what came of it."""
    if joined() is not None:
        flags = (*flags, JOINED)
    try:
        launch(folder, WORKER, ["--run", str(folder), "--config", str(config), *flags], run.layout.processes)
    except EyasError as error:
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0])
        raise type(error)(f"{error} (run folder: {folder})") from error
    except KeyboardInterrupt:
        run_folder.write_status(folder, "failed", "interrupted")
        raise
    print_summary(folder, run)
