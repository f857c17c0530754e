"""Where a run's metrics go beside metrics.csv: TensorBoard, Weights & Biases, MLflow, through Lightning's loggers.

Importing this loads neither Lightning nor a tracker: the command line checks with it what a run asks for.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

CSV, TENSORBOARD, WANDB, MLFLOW = NAMES = ("csv", "tensorboard", "wandb", "mlflow")
"""Every run writes metrics.csv; `csv` asks for no more than that."""
PACKAGES = {WANDB: "wandb", MLFLOW: "mlflow"}
"""Packages that a tracker needs and Eyas brings only as extras of these names."""
STEPS = "trainer/global_step"
"""What Lightning's logger calls the step."""
IDS = "trackers.json"
"""Names that trackers know a run by, kept in its folder so that it goes on under them when it is resumed."""


def asked_for(logger: str | tuple[str, ...]) -> tuple[str, ...]:
    """The trackers that the option `logger` names. Raises ConfigError for one that there is not."""
    names = (logger,) if isinstance(logger, str) else logger
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"logger: {unknown_name('logger', name, NAMES)}")
    return tuple(dict.fromkeys(names))


def check_installed(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a tracker whose package is absent."""
    for name in names:
        if name in PACKAGES and not installed(PACKAGES[name]):
            raise ConfigError(
                f"logger={name} needs the package {PACKAGES[name]}; pip install 'eyas-experiments[{name}]', or choose "
                "logger=tensorboard"
            )


def installed(package: str) -> bool:
    """Whether a package can be imported; a folder of its name, such as W&B leaves behind, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def loggers(
    names: tuple[str, ...],
    folder: Path,
    *,
    experiment: str,
    runs: Path,
    config: Mapping[str, Any],
    first: bool,
    resumed_at: int | None = None,
) -> list[Logger]:
    """Lightning's loggers of the run in `folder`, one of the runs of an `experiment` in the folder `runs`. What a run
    is made of is told to those that compare runs, once. `first` says that this rank is the one that logs; what
    TensorBoard has of the step `resumed_at` and later is dropped, as the run is about to log it again."""
    made: list[Logger] = []
    for name in names:
        if name == TENSORBOARD:
            from lightning.pytorch.loggers import TensorBoardLogger

            made.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=resumed_at))
        elif name in PACKAGES and first:
            made.append((wandb if name == WANDB else mlflow)(folder, experiment, runs, config))
    return made


def wandb(folder: Path, experiment: str, runs: Path, config: Mapping[str, Any]) -> Logger:
    """Weights & Biases, set up by its own environment variables (WANDB_PROJECT, WANDB_MODE, ...). Raises ConfigError
    where it has no key or no network."""
    import wandb as package
    from lightning.pytorch.loggers import WandbLogger

    known = read_ids(folder)
    identity = known.get(WANDB) or secrets.token_hex(4)
    try:
        run = package.init(  # not left to Lightning, which passes what W&B warns of
            name=label(folder, runs, experiment),
            dir=folder,
            id=identity,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", "eyas"),
            group=experiment,
            config=None if WANDB in known else dict(config),
            settings=package.Settings(silent=True, console="off"),
        )
    except package.errors.Error as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"logger=wandb: {why}; WANDB_MODE=offline keeps what is logged in the run's folder"
        ) from error
    run.define_metric(STEPS)
    run.define_metric("*", step_metric=STEPS, step_sync=True)
    write_ids(folder, known | {WANDB: identity})
    return WandbLogger(experiment=run)


def mlflow(folder: Path, experiment: str, runs: Path, config: Mapping[str, Any]) -> Logger:
    """MLflow, at MLFLOW_TRACKING_URI, or in files under mlruns in the folder of all runs, where jobs side by side do
    not lock each other out as they would in a database of one file; MLflow wants to be told that files will do."""
    from lightning.pytorch.loggers import MLFlowLogger

    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # it tells of a new experiment
    known, there = read_ids(folder), os.environ.get("MLFLOW_TRACKING_URI")
    if there is None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(
        experiment_name=experiment,
        run_name=label(folder, runs, experiment),
        tracking_uri=there or (runs / "mlruns").resolve().as_uri(),
        run_id=known.get(MLFLOW),
    )
    if MLFLOW not in known:
        logger.log_hyperparams(dict(config))
        write_ids(folder, known | {MLFLOW: str(logger.run_id)})
    return logger


def label(folder: Path, runs: Path, experiment: str) -> str:
    """What tells the run from the experiment's others: its folder's name, with its number in a sweep."""
    outer = (runs / experiment).resolve()
    here = folder.resolve()
    return here.relative_to(outer).as_posix() if here.is_relative_to(outer) else here.name


def read_ids(folder: Path) -> dict[str, str]:
    """What trackers know the run by so far."""
    path = folder / IDS
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_ids(folder: Path, ids: Mapping[str, str]) -> None:
    """Keeps what trackers know the run by."""
    (folder / IDS).write_text(json.dumps(dict(ids), indent=2) + "\n")
