"""The tasks there are, by the name that `task.kind` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name
from eyas.core.schema import load
from eyas.experiments.tasks.copying import Copying
from eyas.experiments.tasks.induction import Induction
from eyas.experiments.tasks.mqar import Mqar
from eyas.experiments.tasks.phonebook import Phonebook
from eyas.experiments.tasks.selective_copying import SelectiveCopying
from eyas.experiments.tasks.synthetic_corpus import SyntheticCorpus
from eyas.experiments.tasks.task import Task

LANGUAGE_MODELLING = "language_modelling"
"""The kind that reads the text of the `data` group."""
KINDS: dict[str, type[Task]] = {
    "mqar": Mqar,
    "copying": Copying,
    "phonebook": Phonebook,
    "induction": Induction,
    "selective_copying": SelectiveCopying,
    "synthetic_corpus": SyntheticCorpus,
}


def load_task(data: Mapping[str, Any]) -> Task | None:
    """The task that plain data of the `task` group describes; None for language modelling. Raises ConfigError."""
    kind = data.get("kind")
    if kind == LANGUAGE_MODELLING:
        for option in data.keys() - {"kind"}:
            raise ConfigError(f"task: {unknown_name('option', option, ['kind'])}")
        return None
    if kind not in KINDS:
        raise ConfigError(f"task.kind: {unknown_name('task', str(kind), [LANGUAGE_MODELLING, *KINDS])}")
    return load(KINDS[kind], data, "task")
