"""`eyas train`: check, claim a folder, start the workers, say how it went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eyas.core.errors import ConfigError, EyasError
from eyas.experiments import run_folder
from eyas.experiments.compose import Job, compose
from eyas.experiments.compose_errors import UPSTREAM, explain
from eyas.experiments.data_card import card_lines
from eyas.experiments.dry_run import print_dry_run
from eyas.experiments.hold import hold
from eyas.experiments.loaded import load_job
from eyas.experiments.multirun import Uncomposed
from eyas.experiments.run_config import RunConfig
from eyas.experiments.sweep import Sweep
from eyas.experiments.workers import JOINED, REFUSED, WORKER, claim_with_data, start
from eyas.parallel.environment import joined
from eyas.parallel.launch import Followers, follow


def train(arguments: Sequence[str], *, dry_run: bool) -> int:
    """Runs what Hydra's command line asks for; returns the exit code. In a multirun a failed job does not stop the
    others. Inside a torchrun or SLURM job, rank 0 composes and the others follow it, where there is one run to follow.
    """
    job_here = joined()
    followed = not (dry_run or {"--cfg", "--multirun"} & {*arguments})
    if job_here is not None and job_here.rank > 0:
        if followed:
            follow(WORKER, [JOINED])
        return 0
    with Followers(WORKER, [JOINED, REFUSED], follow=followed) as followers:
        lead(arguments, followers, dry_run=dry_run)
    return 0


def lead(arguments: Sequence[str], followers: Followers, *, dry_run: bool) -> None:
    """`train` for the process that composes."""
    errors: list[EyasError] = []

    def run(job: Job) -> None:
        try:
            train_one(job, followers, dry_run=dry_run)
        except EyasError as error:  # not raised here: Hydra would say a line of its own
            errors.append(error)

    with Sweep(dry_run=dry_run) as sweep:
        try:
            compose(arguments, run, sweep.launch)
        except UPSTREAM as error:
            raise explain(error, arguments) from error
        except KeyboardInterrupt as interrupt:
            again = f"the same command goes on with {sweep.folders_told}" if sweep.paths else str(interrupt)
            raise KeyboardInterrupt(again) from None
        except Uncomposed as job:
            raise ConfigError(f"{job}: {explain(job.why, job.overrides)}; no job was started") from job
    if errors:
        raise errors[0]
    sweep.conclude()


def print_card(run: RunConfig, folder: Path) -> None:
    """Prints what the run learns from. A run whose output nobody reads has failed, and says so elsewhere."""
    try:
        print("\n".join(card_lines(run.data, run_folder.read_data(folder))), flush=True)
    except BrokenPipeError as error:
        run_folder.write_status(folder, "failed", run_folder.UNREAD)
        raise EyasError(f"{run_folder.UNREAD} (run folder: {folder})") from error


def train_one(job: Job, followers: Followers, *, dry_run: bool) -> None:
    """Checks and runs one configuration."""
    config, run = load_job(job)
    if dry_run:
        print_dry_run(run)
        return
    folder = claim_with_data(job.folder, run, config, job.origin)
    with hold(folder, "trained"):
        if run.drawn_task is None:
            print_card(run, folder)
        followers.launched()
        start(folder, run, folder / run_folder.CONFIG)
