"""RUN@STEP, how an option names one checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from eyas.core.errors import ConfigError

AT = "@"
"""Stands between a run folder and a step."""


def with_step(folder: Path, step: int) -> str:
    """The checkpoint's name."""
    return f"{folder}{AT}{step}"


def split_step(given: str, option: str) -> tuple[str, int | None]:
    """The run, and the step behind it where one is named; a folder may have the sign in a name of its own. Raises
    ConfigError for what is neither a step nor part of a folder's name."""
    name, at, number = given.rpartition(AT)
    if at and number.isdecimal():
        return name, int(number)
    if at and "/" not in number and not Path(given).exists():
        raise ConfigError(f"{option}={given} names no step behind the {AT}; write a number, as in runs/stable@300")
    return given, None


def run_of(named: str) -> Path:
    """The run of a checkpoint that is named in full; a name without a step is the run's own."""
    name, at, step = named.rpartition(AT)
    return Path(name if at and step.isdecimal() else named)


def step_of(named: str) -> int:
    """The step of a checkpoint that is named in full."""
    return int(named.rpartition(AT)[2])
