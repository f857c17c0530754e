"""What a batch of a sweep's jobs needs: checked, each with its folder, before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.core.errors import EyasError
from eyas.experiments.compose import Job
from eyas.experiments.hold import hold
from eyas.experiments.loaded import load_job
from eyas.experiments.multirun import what_varies
from eyas.experiments.prepare import prepare
from eyas.experiments.run_config import RunConfig
from eyas.experiments.sweep_folder import State, SweepFolder, state_of
from eyas.experiments.sweep_job import SweepJob


@dataclass
class Planned:
    """A job on its way to a launcher."""

    job: Job
    number: int
    varies: str
    """Its overrides that not all jobs share."""
    config: dict[str, Any]
    run: RunConfig | None = None
    """None where the configuration cannot be run."""
    error: EyasError | None = None
    folder: Path = Path()
    state: State = "missing"

    @property
    def runs(self) -> bool:
        """Whether there is something to do that can be done."""
        return self.error is None and self.state != "finished"

    @property
    def sent(self) -> SweepJob:
        """What its process must know."""
        return SweepJob(self.folder, self.config, self.job.origin)

    def check(self, law: Callable[[RunConfig], object]) -> None:
        """Notes the error that the law raises, if it applies to a run that would start."""
        if self.runs and self.run is not None:
            try:
                law(self.run)
            except EyasError as error:
                self.error = error


def plan(jobs: Sequence[Job], folder_of: Callable[[Path], SweepFolder]) -> list[Planned]:
    """Checks every job and gives it a folder; `folder_of` knows the sweep's, by the folder that a new one would get.
    Raises ConfigError where another process is at a job that is not finished."""
    overrides = what_varies([[o for o in job.overrides if o not in (job.origin.command or [])] for job in jobs])
    planned = [Planned(job, job.number or 0, varies, job.config) for job, varies in zip(jobs, overrides, strict=True)]
    homes: dict[Path, list[Planned]] = {}
    for each in planned:
        try:
            each.config, each.run = load_job(each.job)
        except EyasError as error:
            each.error = error
        homes.setdefault(each.job.folder.parent, []).append(each)
    for wanted, group in homes.items():
        places = folder_of(wanted).place({each.number: each.config for each in group})
        for each in group:
            each.folder = places[each.number]
            each.state = state_of(each.folder)
            if each.state != "finished":
                with hold(each.folder, "trained"):
                    pass
    return planned


def prepare_data(planned: Sequence[Planned]) -> None:
    """Prepares the text of the jobs that will run, before they do so all at once."""
    seen = []
    for each in planned:
        if each.runs and each.run is not None and each.run.drawn_task is None and each.run.data not in seen:
            seen.append(each.run.data)
            each.check(lambda run: prepare(run.data))
