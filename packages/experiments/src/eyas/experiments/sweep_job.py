"""One job of a sweep, in the process that the launcher gives it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from eyas.core.errors import EyasError
from eyas.experiments import run_folder
from eyas.experiments.hold import hold
from eyas.experiments.origin import Origin
from eyas.experiments.resume import go_on
from eyas.experiments.run_config import load_run
from eyas.experiments.sweep_folder import state_of
from eyas.experiments.workers import claim_with_data, start
from eyas.parallel.lifeline import end_with_parent
from eyas.parallel.shares import Shares

THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class SweepJob:
    """All that a process must know to run a job."""

    folder: Path
    config: dict[str, Any]
    origin: Origin

    def run(self) -> EyasError | None:
        """Does what is missing of the job, and says what went wrong; the run folder says so too."""
        with hold(self.folder, "trained"):
            try:
                match state_of(self.folder):
                    case "started":
                        go_on(self.folder, on_terminal=False)
                    case "missing":
                        self._begin()
            except EyasError as error:
                self.note(error)
                return error
        return None

    def _begin(self) -> None:
        run = load_run(self.config)
        run_folder.clear(self.folder)
        claim_with_data(self.folder, run, self.config, self.origin)
        start(self.folder, run, self.folder / run_folder.CONFIG, on_terminal=False)

    def note(self, error: EyasError) -> None:
        """Leaves a run folder that says how the job failed."""
        if not (self.folder / run_folder.CONFIG).exists():
            run_folder.claim(self.folder, self.config, self.origin)
        run_folder.write_status(self.folder, "failed", str(error).partition("\n")[0])


@dataclass(frozen=True)
class Runner:
    """What a launcher calls, in a process of its own choice, in the place of Hydra's composed configuration."""

    jobs: Sequence[SweepJob]
    """By the launcher's number."""
    parent: int
    """The process of the sweep."""
    tied: bool
    """Whether the launcher's processes are children of the sweep's."""
    threads: str | None
    """OMP_NUM_THREADS as the user set it; joblib sets one of its own, per job and not per process of a job."""
    shares: Shares | None
    """Of this machine; None where each job has its machine, or the whole of this one."""

    def __call__(self, _: object) -> EyasError | None:
        if self.tied and os.getpid() != self.parent:
            end_with_parent(self.parent)
        os.environ.pop(THREADS, None)
        if self.threads is not None:
            os.environ[THREADS] = self.threads
        with self.shares.one() if self.shares is not None else nullcontext():
            return self.jobs[HydraConfig.get().job.num].run()
