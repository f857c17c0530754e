"""Run folders, read whatever state they are in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from eyas.core.errors import DataError
from eyas.experiments.hold import LOCK, is_held
from eyas.experiments.origin import is_seed

CONFIG, OVERRIDES, METRICS, STATUS = "config.yaml", "overrides.yaml", "metrics.json", "status.json"
ORIGIN = "origin.yaml"
"""Which file of each group was chosen, and what was made of the seed."""
CURVES, STEP = "metrics.csv", "step"
"""The metrics of every step, and the column that counts them from zero."""
ENVIRONMENT = "environment.json"
EVALUATIONS = "eval.json"
"""What `eyas eval` found of the checkpoint of one step."""
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml; hundreds of runs are read at once."""


def resumed_config(number: int) -> str:
    """Name of the file that holds what a run goes on with when it is resumed for the first, second, ... time."""
    return f"resume-{number}.yaml"


def times_resumed(folder: Path) -> int:
    """How often the run in `folder` was resumed."""
    return next(number for number in count() if not (folder / resumed_config(number + 1)).exists())


def latest_config(folder: Path) -> Path:
    """The configuration that the run in `folder` went on with last: that of its latest resume, or the first one."""
    number = times_resumed(folder)
    return folder / (resumed_config(number) if number else CONFIG)


def read_plain(path: Path) -> dict[str, Any] | None:
    """The options in a configuration file; None where it cannot be read."""
    try:
        content = _yaml(path)
    except (OSError, _Damaged):
        return None
    return content if isinstance(content, dict) else None


class _Damaged(Exception):
    """A file of a run folder that cannot be read."""


@dataclass
class RunRecord:
    """What a run folder tells."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    """Resolved options by dotted name, as the run went on with them last."""
    overrides: dict[str, str] = field(default_factory=dict)
    """What was asked for on the command line."""
    choices: dict[str, str] = field(default_factory=dict)
    """The file of each group, asked for or by default."""
    seeded: dict[str, str] = field(default_factory=dict)
    """Options that are made of the seed, as they were written."""
    metrics: dict[str, float] = field(default_factory=dict)
    state: str = "unknown"
    """running, finished, failed, stopped where its processes have gone without a word, or unknown."""
    error: str = ""
    """First line of a failed run's error."""
    damaged: list[str] = field(default_factory=list)
    """Files that are missing or half-written."""

    @cached_property
    def seeds(self) -> tuple[tuple[str, str], ...]:
        """What it drew with."""
        return tuple((name, str(value)) for name, value in self.config.items() if is_seed(name))

    @property
    def remark(self) -> str:
        """What a reader must know of a run without results; empty for a finished one."""
        if self.state == "failed":
            return f"FAILED: {self.error or 'no message'}"
        notes = [] if self.state == "finished" else [self.state]
        return "; ".join(notes + self.damaged)


def find_runs(*directories: Path) -> list[RunRecord]:
    """The run in each folder, or all runs below it, in natural order; each run once."""
    folders: dict[Path, Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise DataError(f"there is no folder {directory}; give a run folder or the folder of a multirun")
        found = list(_run_folders(directory))
        if not found:
            raise DataError(f"there is no run in {directory}: no folder with {CONFIG} or {STATUS}")
        for path in found:
            folders.setdefault(path.resolve(), path)
    return [read_run(path) for path in folders.values()]


def read_run(path: Path) -> RunRecord:
    """Reads one run folder; what cannot be read is noted, not raised."""
    run = RunRecord(path)

    def read(name: str, parse: Callable[[Path], Any], kind: type) -> Any:
        try:
            content = parse(path / name)
            if isinstance(content, kind):
                return content
            run.damaged.append(f"{name} damaged")
        except FileNotFoundError:
            run.damaged.append(f"no {name}")
        except (_Damaged, OSError):
            run.damaged.append(f"{name} damaged")
        return kind()

    run.config = dict(_flat(read(latest_config(path).name, _yaml, dict)))
    if (path / OVERRIDES).exists():
        run.overrides = dict(_override(str(text)) for text in read(OVERRIDES, _yaml, list))
    if (path / ORIGIN).exists():
        origin = read(ORIGIN, _yaml, dict)
        parts = [origin.get(part) or {} for part in ("choices", "seeded")]
        if all(isinstance(part, dict) for part in parts):
            run.choices, run.seeded = ({str(option): str(value) for option, value in part.items()} for part in parts)
        else:
            run.damaged.append(f"{ORIGIN} damaged")
    status = read(STATUS, _json, dict)
    if status.get("state") == "running" and (path / LOCK).exists() and not is_held(path):
        status["state"] = "stopped"
    run.state, run.error = str(status.get("state", "unknown")), str(status.get("error") or "").partition("\n")[0]
    if run.state == "finished" or (path / METRICS).exists():
        run.metrics = {name: value for name, value in _flat(read(METRICS, _json, dict), "/") if _is_number(value)}
    if (path / EVALUATIONS).exists():
        found = read(EVALUATIONS, _json, dict)
        if found.get("step") == run.metrics.get("steps", found.get("step")):
            run.metrics |= {name: value for name, value in _flat(found.get("metrics", {}), "/") if _is_number(value)}
    return run


def read_evaluations(folder: Path) -> dict[str, Any]:
    """What `eyas eval` found so far; nothing where there is no such file. Raises DataError for a damaged one."""
    try:
        found = _json(folder / EVALUATIONS)
    except FileNotFoundError:
        return {}
    except _Damaged as error:
        raise DataError(f"{folder / EVALUATIONS} is damaged; remove it") from error
    return dict(found)


def _run_folders(directory: Path) -> Iterator[Path]:
    if any((directory / name).is_file() for name in (CONFIG, STATUS)):
        yield directory
        return
    children = [path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for child in sorted(children, key=_natural):
        yield from _run_folders(child)


def _natural(path: Path) -> tuple[bool, int, str]:
    """Numbered folders first, 9 before 10."""
    numbered = path.name.isdecimal()
    return not numbered, int(path.name) if numbered else 0, path.name


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _Damaged from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise _Damaged from error


def _flat(tree: Mapping[Any, Any], separator: str = ".", above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{above}{separator}{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, separator, name)
        else:
            yield name, value


def _override(text: str) -> tuple[str, str]:
    """`+layer@model.layers.ssm=gdn` is an override of `layer@model.layers.ssm`."""
    name, _, value = text.lstrip("+~").partition("=")
    return name, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
