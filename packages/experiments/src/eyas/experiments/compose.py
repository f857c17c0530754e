"""From the command line to plain configurations: Hydra composes, sweeps and names folders; no worker ever sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eyas.core.allocation import AllocationConfig
from eyas.core.errors import ConfigError
from eyas.core.model import ModelConfig
from eyas.core.registry import mixers
from eyas.core.schema import defaults
from eyas.experiments.conf_tree import conf_folder, mixer_options
from eyas.experiments.data_config import DataConfig
from eyas.experiments.experiment import ExperimentConfig
from eyas.experiments.match import MatchConfig
from eyas.experiments.multirun import Launch, batches, sweeper_defaults
from eyas.experiments.origin import Origin, choices, seeded
from eyas.experiments.profile_config import ProfileConfig
from eyas.experiments.run_config import RunConfig, SampleConfig, TrainerConfig
from eyas.experiments.schedule import ScheduleConfig
from eyas.experiments.tasks import KINDS, LANGUAGE_MODELLING, load_task
from eyas.experiments.upcycle import UpcycleConfig
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
    "profile": ProfileConfig,
    "upcycle": UpcycleConfig,
}
STATED = {"experiment": ExperimentConfig, "allocation": AllocationConfig, "match": MatchConfig}
"""Options that have no choices of their own."""
SIZES = ("vocab_size", "sequence_length")
"""Options of the data that a task decides which draws its own sequences."""


@dataclass(frozen=True)
class Job:
    """One configuration to run: the only one, or one of a multirun."""

    config: dict[str, Any]
    origin: Origin
    folder: Path
    """Where its run folder goes."""
    number: int | None
    """Place in the multirun; None outside one."""

    @property
    def overrides(self) -> list[str]:
        """What the command line gave, or a sweep's axes."""
        return self.origin.overrides


def compose(arguments: Sequence[str], run: Callable[[Job], None], launch: Launch | None = None) -> None:
    """Composes the configurations that Hydra's command line `arguments` ask for, and calls `run` with the only one, or
    `launch` with those of a multirun and the launcher that is chosen for them.

    Hydra's and OmegaConf's own errors come through; see `compose_errors`.
    """
    register_schemas()
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    command = ["eyas", "train", *arguments]
    unresolved: list[Exception] = []

    def job_of(composed: DictConfig, of_hydra: HydraConf, overrides: Sequence[str], number: int | None) -> Job:
        fill_sizes(composed)
        written = OmegaConf.to_container(composed)
        assert isinstance(written, dict)
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        config = {str(key): value for key, value in plain.items()}
        parts = config.get("runs", RunConfig.runs), config.get("name", RunConfig.name), now, number
        folder = Path(*(str(part) for part in parts if part is not None))
        chosen = choices(of_hydra.runtime.choices, starts=config.get("start_from") is not None)
        origin = Origin(list(overrides), command, chosen, dict(seeded(written)))
        return Job(config, origin, folder, number)

    def only(composed: DictConfig) -> None:
        try:
            of_hydra = HydraConfig.get()
            run(job_of(composed, of_hydra, of_hydra.overrides.task, None))
        except OmegaConfBaseException as error:  # not raised here: Hydra would say a line of its own
            unresolved.append(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"
    typed = sys.argv
    # Hydra makes folders before a configuration is checked.
    with TemporaryDirectory(prefix="eyas-") as aside, batches(job_of, launch):
        folders = [f"hydra.run.dir='{aside}'", f"hydra.sweep.dir='{aside}'"]
        sys.argv = ["eyas train", *arguments, *search_path(arguments), *sweeper_defaults(arguments), *folders]
        try:
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(only)()
        finally:
            sys.argv = typed
    if unresolved:
        raise unresolved[0]


def register_schemas() -> None:
    """Gives Hydra the options of every group and every registered mixer with their defaults, so that any of them can be
    overridden and any other is refused."""
    store = ConfigStore.instance()
    for group, schema in SCHEMAS.items():
        store.store(group="schema", name=group, node=defaults(schema), provider="eyas")
    store.store(group="schema", name="model", node={**defaults(ModelConfig), "layers": {}}, provider="eyas")
    for name, schema in STATED.items():
        store.store(group="schema", name=name, node=defaults(schema), provider="eyas")
    store.store(group="schema/task", name=LANGUAGE_MODELLING, node={"kind": LANGUAGE_MODELLING}, provider="eyas")
    for kind, task in KINDS.items():
        store.store(group="schema/task", name=kind, node=defaults(task), provider="eyas")
    for kind, entry in mixers().items():
        node = {"kind": kind, **mixer_options(entry.mixer.Config)}
        store.store(group="layer", name=kind, node=node, provider=entry.package)


def fill_sizes(composed: DictConfig) -> None:
    """Writes what a task decides where the data leaves it open, before anything refers to it. A task with an error is
    left for the check of the whole."""
    if composed.data.source != "task":
        return
    plain = OmegaConf.to_container(composed.task, resolve=True)
    assert isinstance(plain, dict)
    with suppress(ConfigError):
        task = load_task({str(key): value for key, value in plain.items()})
        for name in SIZES:
            if task is not None and composed.data[name] is None:
                composed.data[name] = getattr(task, name)


def search_path(arguments: Sequence[str]) -> list[str]:
    """An override that adds ./conf and the trees of installed packages, unless the user sets the search path."""
    if any(argument.startswith("hydra.searchpath=") for argument in arguments):
        return []
    folders = [f"pkg://{point.value}" for point in entry_points(group=CONF_ENTRY_POINTS)]
    here = Path.cwd() / "conf"
    if here.is_dir() and here.resolve() != conf_folder().resolve():
        folders.append(f"file://{here}")
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
