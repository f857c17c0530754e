"""Curves of runs: columns of metrics.csv, thinned so that no peak is lost."""

# T steps, P points

from __future__ import annotations

import csv
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from eyas.core.errors import DataError
from eyas.experiments.metric_names import higher_is_better
from eyas.experiments.run_records import STEP

Numbers = NDArray[np.float64]
FIRST = ("train/loss", "validation/loss", "learning_rate", "grad_norm")
"""Curves that come first, where they exist."""
LAST = ("mfu", "tokens_per_second", "step_seconds", "memory_gib")
UNDRAWN = frozenset({STEP, "samples", "tokens", "global_batch", "skipped", "weight_decay", "tflops"})
"""What only counts, or follows from another curve."""
PARTS = "time/"
"""What parts of a step are called, which a table of a run tells better than curves of many."""
MOST_CURVES = 12
"""Kinds of curves in a report."""
MOST_POINTS, LEAST_POINTS = 2000, 64
ALL_POINTS = 320_000
"""Of all curves of a report together, about; 11 bytes each in the file."""


@dataclass(frozen=True)
class Curve:
    """Values at steps counted from one."""

    steps_T: Numbers
    values_T: Numbers

    def by_step(self) -> dict[int, float]:
        """The value of each step, the last one where there are several."""
        return dict(zip(self.steps_T.astype(int).tolist(), self.values_T.tolist(), strict=True))


def curve_names(paths: Sequence[Path]) -> list[str]:
    """The curves that any of the files has, those that matter most first."""
    found = {name for path in paths for name in _header(path) if name and _drawn(name)}
    between = sorted(found.difference(FIRST, LAST), key=lambda name: (higher_is_better(name) is None, name))
    names = [*FIRST, *between, *LAST]
    return [name for name in names if name in found][:MOST_CURVES]


def read_curves(path: Path, names: Sequence[str]) -> dict[str, Curve]:
    """Those of the named columns that a run's metrics.csv has, without a last line that a killed run left short. Raises
    DataError for a file that is no such table."""
    header = _header(path)
    wanted = [name for name in names if name in header]
    if not wanted or STEP not in header:
        return {}
    columns = [STEP, *wanted]
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    try:
        table = arrow.read_csv(
            pa.BufferReader(whole + newline),
            read_options=arrow.ReadOptions(use_threads=False),
            convert_options=arrow.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.float64()), null_values=[""]
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    steps_T = table[STEP].to_numpy() + 1
    curves = {}
    for name in wanted:
        here_T = ~table[name].is_null().to_numpy() & ~np.isnan(steps_T)
        if here_T.any():
            curves[name] = Curve(steps_T[here_T], table[name].to_numpy()[here_T])
    return curves


def points_for(curves: int) -> int:
    """How many points each of so many curves may have."""
    return int(np.clip(ALL_POINTS // max(1, curves), LEAST_POINTS, MOST_POINTS))


def thin(curve: Curve, most: int) -> Curve:
    """No more than `most` points of the curve: its first and last, and of each stretch of neighbours the least and the
    greatest, and one that is no number where there is any."""
    total = len(curve.steps_T)
    if total <= most:
        return curve
    broken_T = np.isnan(curve.values_T)
    width = -(-total // ((most - 2) // (3 if broken_T.any() else 2)))
    starts = np.arange(0, total, width)
    values, broken = (np.pad(of, (0, len(starts) * width - total), "edge") for of in (curve.values_T, broken_T))
    values, broken = values.reshape(-1, width), broken.reshape(-1, width)
    least = starts + np.where(broken, np.inf, values).argmin(axis=1)
    greatest = starts + np.where(broken, -np.inf, values).argmax(axis=1)
    gaps = (starts + broken.argmax(axis=1))[broken.any(axis=1)]
    chosen = np.unique(np.concatenate([[0, total - 1], least, greatest, gaps]))
    return Curve(curve.steps_T[chosen], curve.values_T[chosen])


def packed(numbers_P: Numbers) -> str:
    """The numbers in single precision, little-endian, as base64."""
    with np.errstate(over="ignore"):
        return b64encode(numbers_P.astype("<f4").tobytes()).decode()


def _drawn(name: str) -> bool:
    return name not in UNDRAWN and not name.startswith(PARTS) and not _of_module(name)


def _of_module(name: str) -> bool:
    """Whether one module tells it of itself, as routers do: hundreds of figures, which TensorBoard shows."""
    return "." in name.partition("/")[0]


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return next(csv.reader(stream), [])
    except OSError:
        return []
