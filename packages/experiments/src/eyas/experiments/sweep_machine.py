"""What Hydra's launchers do with a machine: how many jobs they run at once, and where."""

from __future__ import annotations

import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from eyas.core.errors import ConfigError
from eyas.parallel.layout import Layout

JOBLIB, LOCAL, SLURM = "JoblibLauncher", "LocalLauncher", "SlurmLauncher"
"""Launchers, by class, that run several jobs at once: on this machine, and on those of a cluster."""


def jobs_at_once(launcher: Launcher, config: DictConfig, jobs: int) -> int:
    """How many of so many jobs the launcher runs at a time on this machine; 0 where it runs them on others."""
    options = config.hydra.launcher
    match type(launcher).__name__:
        case name if name == JOBLIB:
            from joblib import effective_n_jobs

            return min(int(effective_n_jobs(options.n_jobs)), jobs)
        case name if name == LOCAL:
            return jobs
        case name if name == SLURM:
            return 0
    return 1


def check_launcher(launcher: Launcher, config: DictConfig) -> None:
    """Raises ConfigError where the launcher would start a job several times."""
    if type(launcher).__name__ not in (LOCAL, SLURM):
        return
    for name in ("nodes", "tasks_per_node"):
        if (given := config.hydra.launcher[name]) != 1:
            raise ConfigError(
                f"hydra.launcher.{name}={given}: a job of a sweep is one task, which starts as many processes as its "
                f"layout has; leave {name} at 1, and start what needs several machines with srun or torchrun"
            )


def check_cluster(launcher: Launcher, config: DictConfig, layout: Layout) -> None:
    """Raises LayoutError where the layout needs more than the GPUs that SLURM is asked for."""
    if type(launcher).__name__ == SLURM and (gpus := config.hydra.launcher.gpus_per_node):
        layout.check_machine(gpus, f"a job with hydra.launcher.gpus_per_node={gpus}")


def is_tied(launcher: Launcher) -> bool:
    """Whether the launcher's processes are children of this one, which end with it."""
    return type(launcher).__name__ == JOBLIB


def lost_processes() -> tuple[type[Exception], ...]:
    """The errors of launchers whose process died under a job."""
    found: list[type[Exception]] = [BrokenProcessPool]
    if "submitit" in sys.modules:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        found += [FailedJobError, UncompletedJobError]
    return tuple(found)


def use_folder(launcher: Launcher, config: DictConfig, folder: Path) -> None:
    """Has Hydra's sweepers and launchers leave in the sweep's folder what they leave: Optuna its best, submitit its
    logs, which a cluster's machines must be able to reach."""
    with open_dict(config):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
    if type(launcher).__name__ in (LOCAL, SLURM):
        vars(launcher)["params"]["submitit_folder"] = str(folder / "submitit" / "%j")
