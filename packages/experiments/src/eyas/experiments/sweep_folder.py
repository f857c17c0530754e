"""Where each job of a sweep has its run folder: the one that it had before, or a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, get_args

from eyas.experiments.run_folder import CHECKPOINTS
from eyas.experiments.run_records import CONFIG, STATUS, latest_config, read_plain, read_run
from eyas.parallel import checkpoint_folder

BESIDE_THE_POINT = ("name", "runs", "experiment", "objective", "profile")
"""Options that change nothing in a run; a trace is of one command, and a run that goes on does not repeat it."""

State = Literal["missing", "started", "finished"]
STATES: tuple[State, ...] = get_args(State)


def identity(config: Mapping[str, Any]) -> str:
    """The same for two configurations if their runs do the same."""
    return json.dumps({key: config[key] for key in config if key not in BESIDE_THE_POINT}, sort_keys=True)


def state_of(folder: Path) -> State:
    """finished, started where there is a whole checkpoint to go on from, else missing."""
    if read_run(folder).state == "finished":
        return "finished"
    return "started" if checkpoint_folder.complete(folder / CHECKPOINTS) else "missing"


class SweepFolder:
    """The numbered folders below `runs/NAME/<when>`, of this sweep and of those of the same name before it."""

    def __init__(self, wanted: Path) -> None:
        """`wanted` is the folder for a sweep that has none yet."""
        self.wanted = wanted
        self.path: Path | None = None
        self.known: dict[str, list[Path]] = {}
        for config in sorted(wanted.parent.glob(f"*/*/{CONFIG}")):
            folder = config.parent
            if folder.name.isdecimal() and (found := read_plain(latest_config(folder))) is not None:
                self.known.setdefault(identity(found), []).append(folder)

    def find(self, config: Mapping[str, Any]) -> Path | None:
        """The folder of a run with this configuration; a finished one if there is one, else one with a checkpoint, else
        the newest."""
        found = self.known.get(identity(config), [])
        return max(found, key=_progress, default=None)

    def place(self, numbered: Mapping[int, Mapping[str, Any]]) -> dict[int, Path]:
        """A folder for each job: the one with its configuration, else one with its number, or the next free number, in
        the newest sweep that has any of the jobs. Jobs that would do the same share a folder. No folder of another
        configuration is given away."""
        places = {number: found for number, config in numbered.items() if (found := self.find(config)) is not None}
        if self.path is None:
            self.path = max((place.parent for place in places.values()), default=None) or _new(self.wanted)
        for number, config in numbered.items():
            if number not in places:
                places[number] = self.find(config) or self._free(number)
                self.known.setdefault(identity(config), []).append(places[number])
        return places

    def _free(self, number: int) -> Path:
        assert self.path is not None
        given = {place for places in self.known.values() for place in places}
        for tried in chain([number], count()):
            place = self.path / str(tried)
            if place not in given and not any((place / name).exists() for name in (CONFIG, STATUS)):
                return place
        raise AssertionError


def _progress(folder: Path) -> tuple[int, Path]:
    return STATES.index(state_of(folder)), folder.parent


def _new(wanted: Path) -> Path:
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError
