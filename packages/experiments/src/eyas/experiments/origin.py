"""How a run's configuration came about: what its values alone do not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SEED = re.compile(r"\$\{([\w.]+\.)?seed\}")
OPTION = re.compile(r"\$\{[\w.]+\}")
"""A reference to another option; one to an environment variable or the clock has a colon."""


@dataclass(frozen=True)
class Origin:
    """What was asked for to get a configuration."""

    overrides: list[str] = field(default_factory=list)
    """What the command line gave, or a sweep's axes."""
    command: list[str] | None = None
    """What was typed; None for what this process was started with."""
    choices: dict[str, str] = field(default_factory=dict)
    """The file of each group, such as model: falcon_h1_tiny, whether asked for or by default."""
    seeded: dict[str, str] = field(default_factory=dict)
    """Options by dotted name that are made of the seed, as they were written: start_from: runs/dense_${seed}."""


def is_seed(option: str) -> bool:
    """Whether an option only says which numbers are drawn: `seed`, `data.seed`."""
    return option.rpartition(".")[2] == "seed"


def choices(of_hydra: Mapping[str, Any], *, starts: bool) -> dict[str, str]:
    """Of Hydra's choices those that are ours; without a model where the run that another `starts` from decides it."""
    others = ("hydra", "schema", *(("model", "layer") if starts else ()))
    return {str(group): str(name) for group, name in of_hydra.items() if name and not str(group).startswith(others)}


def seeded(unresolved: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The options of a configuration, before it was resolved, that are made of the seed and other options alone."""
    for name, value in unresolved.items():
        full = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from seeded(value, f"{full}.")
        elif isinstance(value, str) and SEED.search(value) and "${" not in OPTION.sub("", value):
            yield full, value
