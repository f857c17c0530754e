"""Between Hydra's sweeper, which says what to run, and its launcher, which says where: the jobs, composed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from eyas.experiments.compose import Job

JobOf = Callable[[DictConfig, HydraConf, Sequence[str], int | None], "Job"]
"""Makes a job of what is composed, what Hydra says of it, the overrides that it was composed with, and its place in the
multirun."""
Launch = Callable[[list["Job"], Launcher, DictConfig], Sequence[JobReturn]]
"""Runs jobs with a launcher that was set up with a configuration of Hydra's; returns what became of each."""

OPTUNA = "hydra/sweeper=optuna"
SEEDED = ("tpe", "random", "cmaes", "nsgaii", "motpe")
"""Optuna's samplers that draw."""


class Uncomposed(Exception):
    """A job that cannot be composed, and Hydra's reason."""

    def __init__(self, job: str, overrides: Sequence[str], why: Exception) -> None:
        super().__init__(job)
        self.overrides, self.why = overrides, why


class Batches(Launcher):
    """Stands before the launcher that the user chose: composes a batch of jobs whole, before any of them starts."""

    def __init__(self, chosen: Launcher, job_of: JobOf, launch: Launch) -> None:
        self.chosen, self.job_of, self.launch_ = chosen, job_of, launch

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        before = HydraConfig.instance().cfg
        jobs = []
        for index, overrides in enumerate(job_overrides):
            number = initial_job_idx + index
            try:
                jobs.append(self._job(number, overrides))
            except (HydraException, OmegaConfBaseException) as error:
                raise Uncomposed(f"job {number} ({what_varies(job_overrides)[index]})", overrides, error) from error
        HydraConfig.instance().cfg = before
        return self.launch_(jobs, self.chosen, self.config)

    def _job(self, number: int, overrides: Sequence[str]) -> Job:
        composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
            HydraConfig.instance().set_config(composed)
            del composed["hydra"]
        return self.job_of(composed, HydraConfig.get(), overrides, number)


@contextmanager
def batches(job_of: JobOf, launch: Launch | None) -> Iterator[None]:
    """Inside, Hydra's sweepers hand their jobs to `launch`. Without one they cannot be used."""
    instantiate = Plugins.instantiate_launcher

    def instantiate_launcher(plugins: Plugins, **setup: Any) -> Launcher:
        assert launch is not None
        quieten_optuna()
        launcher = Batches(instantiate(plugins, **setup), job_of, launch)
        launcher.setup(**setup)
        return launcher

    # BasicSweeper would compose every job once more, only to see whether it can be.
    unchecked = patch.object(Sweeper, "validate_batch_is_legal", lambda *_: None)
    with patch.object(Plugins, "instantiate_launcher", instantiate_launcher), unchecked:
        yield


def quieten_optuna() -> None:
    """Keeps Optuna's own log lines off the terminal, where it is loaded."""
    if "optuna" in sys.modules:
        import optuna

        optuna.logging.disable_default_handler()


def sweeper_defaults(arguments: Sequence[str]) -> list[str]:
    """Overrides for Optuna, where the user does not say otherwise: a failed trial does not end the search, as it ends
    no other sweep, and the same command draws the same trials, so that it finds those that were run before."""
    if OPTUNA not in arguments:
        return []
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/sweeper/sampler=")]
    wanted = ["hydra.sweeper.max_failure_rate=1.0"]
    if not chosen or chosen[-1] in SEEDED:
        wanted.append("hydra.sweeper.sampler.seed=1")
    given = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    return [override for override in wanted if override.partition("=")[0] not in given]


def what_varies(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Of each job's overrides, those that not all jobs have."""
    everywhere = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(override for override in given if override not in everywhere) for given in overrides]
