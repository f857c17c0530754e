"""A multirun: what is missing of its jobs, run by the launcher of the user's choice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from eyas.core.errors import ConfigError, EyasError
from eyas.experiments import run_folder
from eyas.experiments.compose import Job
from eyas.experiments.dry_run import dry_run_line
from eyas.experiments.hold import hold
from eyas.experiments.loaded import load_job
from eyas.experiments.multirun import what_varies
from eyas.experiments.sweep_folder import SweepFolder
from eyas.experiments.sweep_launch import launch
from eyas.experiments.sweep_machine import check_cluster, check_launcher, jobs_at_once, use_folder
from eyas.experiments.sweep_plan import Planned, plan, prepare_data
from eyas.experiments.sweep_table import BEFORE, Shown, SweepTable
from eyas.parallel.environment import joined
from eyas.parallel.shares import Shares, shares_here

BEST = "optimization_results.yaml"
"""What Optuna's sweeper leaves."""
NO_BEST = "No trials are completed yet."
"""What Optuna raises at the end of a search whose every trial failed; the failures say more."""
GRID = "BasicSweeper"
"""Hydra's own sweeper, which asks for every combination and for no objective."""


class Sweep:
    """The jobs of a multirun, which a sweeper asks for all at once or batch by batch."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.jobs: dict[int, EyasError | None] = {}
        """What went wrong with each."""
        self.folders: dict[Path, SweepFolder] = {}
        """By the folder that a new sweep would get."""
        self.paths: dict[Path, None] = {}
        """The folders with the jobs' own, in order; several where names depend on what varies."""
        self.held: set[Path] = set()
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.stack.close()
        return isinstance(error, ValueError) and str(error) == NO_BEST and any(self.jobs.values())

    def launch(self, jobs: list[Job], launcher: Launcher, config: DictConfig) -> Sequence[JobReturn]:
        """Runs what is missing of the jobs; gives each one's objective back to the sweeper."""
        if (job_here := joined()) is not None:
            raise ConfigError(
                f"a multirun cannot share one {job_here.launcher} job; start each configuration by itself"
            )
        check_launcher(launcher, config)
        if self.dry_run:
            return self._cost(jobs)
        planned = plan(jobs, self._folder)
        self.paths |= dict.fromkeys(each.folder.parent for each in planned)
        use_folder(launcher, config, planned[0].folder.parent)
        for each in planned:
            each.check(lambda run: check_cluster(launcher, config, run.layout))
        shares = self._share(len({each.folder for each in planned if each.runs}), launcher, config)
        if shares is not None:
            for each in planned:
                each.check(lambda run: shares.check(run.layout))
        prepare_data(planned)
        self._run(planned, launcher, shares)
        self.jobs |= {each.number: each.error for each in planned}
        judged = not config.hydra.sweeper._target_.endswith(GRID)
        return [result(each) if judged else Returned(None) for each in planned]

    def conclude(self) -> None:
        """Says where everything is. Raises the kind of error that the first failed job had."""
        failures = {number: error for number, error in self.jobs.items() if error is not None}
        for path in self.paths:
            if (best := path / BEST).exists():
                found = yaml.safe_load(best.read_text())
                print("Best: " + " ".join(f"{name}={value}" for name, value in found.items() if name != "name"))
            print(f"Sweep folder: {path}", flush=True)
        for error in failures.values():
            which = f"{len(failures)} of {len(self.jobs)} jobs failed ({', '.join(map(str, failures))})"
            again = (
                f"; eyas results {self.folders_told} shows them beside the others, the same command tries them again"
            )
            raise type(error)(which + again * bool(self.paths))

    @property
    def folders_told(self) -> str:
        """As `eyas results` takes them."""
        return " ".join(map(str, self.paths))

    def _folder(self, wanted: Path) -> SweepFolder:
        if wanted not in self.folders:
            self.folders[wanted] = SweepFolder(wanted)
        return self.folders[wanted]

    def _share(self, jobs: int, launcher: Launcher, config: DictConfig) -> Shares | None:
        """This machine in as many parts as jobs run on it at once; None where there is nothing to share."""
        count = jobs_at_once(launcher, config, jobs)
        if count < 2:
            return None
        import torch

        aside = self.stack.enter_context(TemporaryDirectory(prefix="eyas-shares-"))
        return shares_here(Path(aside), count, torch.cuda.device_count())

    def _run(self, planned: Sequence[Planned], launcher: Launcher, shares: Shares | None) -> None:
        for path in {each.folder.parent for each in planned} - self.held:
            self.stack.enter_context(hold(path, "worked on"))
            self.held.add(path)
        shown = []
        for each in planned:
            state = "waiting" if each.runs else "failed" if each.error else BEFORE
            if each.error is not None:
                each.sent.note(each.error)
            shown.append(Shown(each.number, each.varies, each.folder, each.config["trainer"]["max_steps"], state))
        counts = {state: sum(each.runs and each.state == state for each in planned) for state in ("missing", "started")}
        before = sum(show.state == BEFORE for show in shown)
        print(
            f"Sweep {self.folders_told}: {len(planned)} jobs, {shares.count if shares else 1} at once; "
            f"{before} finished before, {counts['started']} to go on with, {counts['missing']} to begin",
            flush=True,
        )
        if before == len(planned):
            print("Nothing is missing; another name= trains everything again", flush=True)
        with SweepTable(shown):
            launch([each for each in planned if each.runs], launcher, shares)
        for each in planned:
            if each.error is not None:
                print(f"eyas: job {each.number} ({each.varies}): {each.error}", file=sys.stderr)

    def _cost(self, jobs: Sequence[Job]) -> list[JobReturn]:
        for job, varies in zip(jobs, what_varies([job.overrides for job in jobs]), strict=True):
            try:
                print(f"job {job.number}: {varies}: {dry_run_line(load_job(job)[1])}", flush=True)
                self.jobs[job.number or 0] = None
            except EyasError as error:
                self.jobs[job.number or 0] = error
                print(f"eyas: job {job.number} ({varies}): {error}", file=sys.stderr)
        return [Returned(0.0) for _ in jobs]  # a search must be told something


class Returned(JobReturn):
    """What became of a job; where it failed, a sweeper that asks gets the error without a line of Hydra's."""

    def __init__(self, value: float | EyasError | None) -> None:
        super().__init__()
        self.status = JobStatus.FAILED if isinstance(value, EyasError) else JobStatus.COMPLETED
        self._return_value = value

    @property
    def return_value(self) -> float | None:
        if isinstance(self._return_value, EyasError):
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: float | EyasError | None) -> None:
        self._return_value = value


def result(planned: Planned) -> Returned:
    """A job's objective, for a sweeper that searches. Raises ConfigError where runs have no such metric."""
    if planned.error is None:
        metrics, name = run_folder.read_metrics(planned.folder), str(planned.config["objective"])
        if isinstance(value := metrics.get(name), int | float):
            return Returned(float(value))
        numbers = sorted(key for key, found in metrics.items() if isinstance(found, int | float))
        raise ConfigError(f"objective={name} is no metric of the run, which has {', '.join(numbers)}")
    return Returned(planned.error)
