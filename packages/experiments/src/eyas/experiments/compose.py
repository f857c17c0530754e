"""From the command line to plain configurations: Hydra composes, sweeps and names folders; no worker ever sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from eyas.core.model import ModelConfig
from eyas.core.registry import mixers
from eyas.core.schema import defaults
from eyas.experiments.corpus import DataConfig
from eyas.experiments.run_config import SampleConfig, TaskConfig, TrainerConfig
from eyas.experiments.schedule import ScheduleConfig
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions

CONF_ENTRY_POINTS = "eyas.conf"
"""Packages that bring configuration files of their own declare one of these, naming the package that holds them."""
SCHEMAS = {
    "layout": Layout,
    "data": DataConfig,
    "optimizer": OptimizerOptions,
    "schedule": ScheduleConfig,
    "trainer": TrainerConfig,
    "sample": SampleConfig,
    "task": TaskConfig,
}


@dataclass(frozen=True)
class Job:
    """One configuration to run: the only one, or one of a multirun."""

    config: dict[str, Any]
    overrides: list[str]
    folder: Path
    """Where its run folder goes."""
    number: int | None
    """Place in the multirun; None outside one."""


def compose(arguments: Sequence[str], run: Callable[[Job], None]) -> None:
    """Composes the configurations that Hydra's command line `arguments` ask for and calls `run` with each.

    Hydra's and OmegaConf's own errors come through; see `compose_errors`.
    """
    register_schemas()

    def job(composed: DictConfig) -> None:
        settings = HydraConfig.get()
        config = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(config, dict)
        number = settings.job.num if settings.mode is RunMode.MULTIRUN else None
        folder = Path(settings.sweep.dir, settings.sweep.subdir) if number is not None else Path(settings.run.dir)
        run(Job({str(key): value for key, value in config.items()}, list(settings.overrides.task), folder, number))

    os.environ["HYDRA_FULL_ERROR"] = "1"
    command, sys.argv = sys.argv, ["eyas train", *arguments, *search_path(arguments)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(job)()
    finally:
        sys.argv = command


def register_schemas() -> None:
    """Gives Hydra the options of every group and every registered mixer with their defaults, so that any of them can be
    overridden and any other is refused."""
    store = ConfigStore.instance()
    for group, schema in SCHEMAS.items():
        store.store(group="schema", name=group, node=defaults(schema), provider="eyas")
    store.store(group="schema", name="model", node={**defaults(ModelConfig), "layers": {}}, provider="eyas")
    for kind, entry in mixers().items():
        node = {"kind": kind, **defaults(entry.mixer.Config)}
        store.store(group="layer", name=kind, node=node, provider=entry.package)


def conf_folder() -> Path:
    """The configuration tree: beside this package where it is installed, else at the root of the source tree."""
    installed = Path(__file__).with_name("conf")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "conf"


def search_path(arguments: Sequence[str]) -> list[str]:
    """An override that adds ./conf and the trees of installed packages, unless the user sets the search path."""
    if any(argument.startswith("hydra.searchpath=") for argument in arguments):
        return []
    folders = [f"pkg://{point.value}" for point in entry_points(group=CONF_ENTRY_POINTS)]
    here = Path.cwd() / "conf"
    if here.is_dir() and here.resolve() != conf_folder().resolve():
        folders.append(f"file://{here}")
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
