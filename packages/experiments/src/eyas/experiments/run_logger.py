"""metrics.csv of a run: one row a step, whatever logged it."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from eyas.core.errors import DataError
from eyas.experiments.run_records import CURVES, STEP

IGNORED = frozenset({"epoch"})
"""Lightning adds it to everything; a run is one epoch of its own length."""


class RunLogger(Logger):
    """Writes metrics.csv: metrics of a step share a row, new metrics add a column, and every row is on disk at once."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / CURVES
        self.columns: list[str] | None = None
        self.row: dict[str, str] = {}
        """The last row of the file, which begins at byte `self.offset`."""
        self.offset = 0

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml is the record of them."""

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Drops the rows of `step` and later: the run is about to write them again."""
        rows = self._read()
        self._rewrite([row for row in rows if int(row[STEP]) < step])

    def numbers(self, *names: str) -> dict[str, list[float]]:
        """All that the file has of each metric, by step; those that it does not have are left out."""
        rows = self._read()
        found = {name: [float(row[name]) for row in rows if row.get(name)] for name in names}
        return {name: values for name, values in found.items() if values}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            raise ValueError("metrics.csv has a row for each step: pass the step")
        values = {name: _text(value) for name, value in metrics.items() if name not in IGNORED}
        if self.columns is None:
            self._rewrite(self._read())
        assert self.columns is not None
        grows = not self.columns or not values.keys() <= set(self.columns)
        if grows or (self.row and step < int(self.row[STEP])):
            self._merge(values, step)
        else:
            same = bool(self.row) and step == int(self.row[STEP])
            self._write_last({**(self.row if same else {}), STEP: str(step), **values}, replace=same)

    def _write_last(self, row: dict[str, str], replace: bool) -> None:
        """Replaces the last row, or appends one."""
        assert self.columns is not None
        with self.path.open("r+", newline="", encoding="utf-8") as stream:
            if replace:
                stream.seek(self.offset)
            else:
                self.offset = stream.seek(0, os.SEEK_END)
            csv.DictWriter(stream, self.columns, lineterminator="\n").writerow(row)
            stream.truncate()
        self.row = row

    def _merge(self, values: dict[str, str], step: int) -> None:
        """Puts metrics into a row that is not the last one, or into columns that are not there yet."""
        rows = {int(row[STEP]): row for row in self._read()}
        rows[step] = {**rows.get(step, {}), STEP: str(step), **values}
        self._rewrite([rows[step] for step in sorted(rows)])

    def _read(self) -> list[dict[str, str]]:
        """The rows on disk; a run that was killed may have left the last one short."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames and STEP not in reader.fieldnames:
                raise DataError(f"{self.path} has no column {STEP!r}; move it out of the run folder")
            return [row for row in reader if None not in row.values()]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """Writes the whole file anew, beside the old one until it is complete."""
        names = {STEP: None} | {name: None for row in rows for name in row}
        self.columns = list(names) if rows else []
        beside = self.path.with_suffix(".csv.new")
        beside.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns, lineterminator="\n")
            if rows:
                writer.writeheader()
                writer.writerows(rows[:-1])
                self.offset = stream.tell()
                writer.writerow(rows[-1])
        self.row = rows[-1] if rows else {}
        beside.replace(self.path)


def _text(value: float) -> str:
    """The shortest text that reads back as the same number; Lightning hands over most numbers in single precision."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return str(single if float(single) == value else float(value))
