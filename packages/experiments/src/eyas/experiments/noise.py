"""Which differences between runs exceed the noise of their seeds: Welch's test."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import mean, variance

from eyas.experiments.metric_names import higher_is_better
from eyas.experiments.prepared import TOKENIZER
from eyas.experiments.results import Results, Row
from eyas.experiments.run_records import RunRecord

LEVEL = 0.05
"""Probability at which a difference that is none is taken for one, over all the rows that the best is compared with."""
RULE = (
    "Best is marked where it differs from every other row of its task or validation text by more than the noise: "
    f"two-sided Welch tests over seeds at {LEVEL:g}, divided by the number of other rows. "
    "Nothing is marked where a row has one seed."
)
ASKED = re.compile(
    r"task\..*|data\.(source|files|blend\..*|text_field|document_separator|validation_fraction|validation_sequences"
    r"|vocab_size|end_of_document)"
)
"""Options that decide what a model is asked for: values are compared where these agree."""


def best_rows(results: Results, metric: str) -> list[Row]:
    """The rows that are better than every other one of the same task, or validation text, beyond the noise."""
    tasks: dict[frozenset[str], list[Row]] = {}
    for row in results.rows:
        asked = frozenset(_asked(run) for run in row.runs if metric in run.metrics)
        tasks.setdefault(asked, []).append(row)
    found = (best_row(rows, metric) for rows in tasks.values())
    return [row for row in found if row is not None]


def _asked(run: RunRecord) -> str:
    options = {name: str(run.config[name]) for name in sorted(run.config) if ASKED.fullmatch(name)}
    return repr((options, _words(run.path / TOKENIZER) or str(run.config.get("data.tokenizer"))))


@cache
def _words(tokenizer: Path) -> str:
    """By its content, as runs that start from others name those' files; empty where a run keeps none."""
    return sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else ""


def best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """The row that is better than every other one beyond the noise; None where there is none, or no way to tell."""
    higher = higher_is_better(metric)
    rivals = [(row, row.values(metric)) for row in rows if row.values(metric)]
    if higher is None or len(rivals) < 2 or any(not math.isfinite(sum(values)) for _, values in rivals):
        return None
    means = [mean(values) for _, values in rivals]
    first = means.index(max(means) if higher else min(means))
    row, values = rivals.pop(first)
    level = LEVEL / len(rivals)
    return row if all(differ(values, other, level) for _, other in rivals) else None


def differ(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> bool:
    """Whether two means differ beyond the noise; never where one of them is of a single value."""
    if len(a) < 2 or len(b) < 2 or mean(a) == mean(b):
        return False
    t, degrees = welch(a, b)
    return two_sided(t, degrees) < level


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Welch's t and its degrees of freedom (Welch 1947); values without any deviation differ infinitely."""
    parts = [variance(values) / len(values) for values in (a, b)]
    if sum(parts) == 0:
        return math.copysign(math.inf, mean(a) - mean(b)), math.inf
    t = (mean(a) - mean(b)) / math.sqrt(sum(parts))
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    return t, sum(parts) ** 2 / spread if spread else math.inf


def two_sided(t: float, degrees: float) -> float:
    """Probability that Student's t is at least as far from zero: I_x(degrees/2, 1/2) at x = degrees/(degrees + t²)."""
    if math.isinf(t):
        return 0.0
    if math.isinf(degrees):
        return math.erfc(abs(t) / math.sqrt(2))
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t), t * t / (degrees + t * t))


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b), regularised: the continued fraction of DLMF 8.17.22 by Lentz's method. `rest` is 1 - x, which the
    caller gives because the difference loses its digits where x is near one."""
    if x == 0.0 or rest == 0.0:
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, rest, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    fraction, c, d = 1.0, 1.0, 0.0
    for n in range(1000):
        m = n // 2
        if n == 0:
            term = 1.0
        elif n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _nonzero(1 + term * d)
        c = _nonzero(1 + term / c)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * (fraction - 1)


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
