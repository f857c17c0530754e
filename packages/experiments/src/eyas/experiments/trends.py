"""What rows of results say together: how a metric goes with the options that they differ in."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import correlation, mean
from typing import TypeVar

from eyas.experiments.metric_names import higher_is_better
from eyas.experiments.results import Row, beside_seed
from eyas.experiments.rules import Trend, TrendKind

Key = TypeVar("Key", bound=Hashable)
Value = Callable[[Row, str], float | None]
"""A metric of a row, its mean over seeds; None where the row has none."""


class Untold(Exception):
    """The rows do not tell; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What was measured, and where."""

    value: float
    detail: str
    lower_bound: bool = False
    """Whether the truth may lie above the value."""


def measure(trend: Trend, rows: Sequence[Row], value_of: Value, when: str = "") -> Finding:
    """The trend over the rows; `when` says which values are meant. Raises Untold where the rows do not decide it."""
    found = [value_of(row, trend.metric) for row in rows]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        raise Untold(f"{len(found) - len(values)} of {len(found)} rows have no {trend.metric}{when}")
    return MEASURES[trend.kind](trend, rows, values)


def spearman(trend: Trend, rows: Sequence[Row], values: Sequence[float]) -> Finding:
    """Rank correlation (Spearman 1904): Pearson's, of ranks; what is alike shares the mean of its ranks. A value that
    is no number ranks as the worst."""
    worst = -math.inf if higher_is_better(trend.metric) else math.inf
    known = [worst if math.isnan(value) else value for value in values]
    chosen = [number_of(row, trend.options[0]) for row in rows]
    for what, varied in ((trend.options[0], chosen), (trend.metric, known)):
        if len(set(varied)) < 2:
            raise Untold(f"{what} does not vary")
    return Finding(correlation(ranks(chosen), ranks(known)), f"over {len(values)} rows")


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in their order, from zero; the mean of their places for those that are alike."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def spread(trend: Trend, rows: Sequence[Row], values: Sequence[float]) -> Finding:
    """How far apart the means of the rows of each value of the option are at most."""
    (name,) = trend.options
    means = grouped([option_of(row, name) for row in rows], values)
    if len(means) < 2:
        raise Untold(f"{name} does not vary")
    if lost := [key for key, value in means.items() if not math.isfinite(value)]:
        raise Untold(f"{trend.metric} is no number at {name}={lost[0]}")
    low = min(means, key=means.__getitem__)
    high = max(means, key=means.__getitem__)
    return Finding(means[high] - means[low], f"{means[low]:.4g} at {low} to {means[high]:.4g} at {high}")


def shift(trend: Trend, rows: Sequence[Row], values: Sequence[float]) -> Finding:
    """By how many places, in the order of all its values, the first option's best value differs at most between values
    of the second one, by means over rows that differ in anything else. A best value at an end may lie beyond it, so the
    shift is then a lower bound. A value of the metric that is no number is the worst."""
    higher = higher_is_better(trend.metric)
    if higher is None:
        raise Untold(f"nothing says whether more or less of {trend.metric} is better")
    moved, beside = trend.options
    at = [number_of(row, moved) for row in rows]
    others = [option_of(row, beside) for row in rows]
    for name, varied in ((moved, at), (beside, others)):
        if len(set(varied)) < 2:
            raise Untold(f"{name} does not vary")
    grid = sorted(set(at))
    means = grouped(list(zip(others, at, strict=True)), values)
    places: dict[str, int] = {}
    for other in dict.fromkeys(others):
        if absent := [value for value in grid if (other, value) not in means]:
            raise Untold(f"no row has {moved}={absent[0]:g} and {beside}={other}")
        costs = [-means[other, value] if higher else means[other, value] for value in grid]
        costs = [math.inf if math.isnan(cost) else cost for cost in costs]
        best = [place for place, cost in enumerate(costs) if cost == min(costs)]
        if len(best) > 1:
            raise Untold(f"{beside}={other} has no one best {moved}")
        places[other] = best[0]
    told = ", ".join(f"{grid[place]:g} at {other}" for other, place in places.items())
    ends = {0, len(grid) - 1} & set(places.values())
    return Finding(max(places.values()) - min(places.values()), f"best {moved} {told}", lower_bound=bool(ends))


MEASURES: dict[TrendKind, Callable[[Trend, Sequence[Row], Sequence[float]], Finding]] = {
    "spearman": spearman, "spread": spread, "shift": shift
}  # fmt: skip


def grouped(keys: Sequence[Key], values: Sequence[float]) -> dict[Key, float]:
    """The mean of the values of each key."""
    return {key: mean(v for k, v in zip(keys, values, strict=True) if k == key) for key in dict.fromkeys(keys)}


def option_of(row: Row, name: str) -> str:
    """The option of a row's runs; of a list the item that stands in brackets behind the name."""
    bare, bracket, item = name.partition("[")
    if not bracket:
        return beside_seed(row.runs[0], name)
    value, place = row.runs[0].config.get(bare), int(item.rstrip("]"))
    if not isinstance(value, list) or place >= len(value):
        raise Untold(f"{bare}={value} has no item {place}")
    return str(value[place])


def number_of(row: Row, name: str) -> float:
    """The option as a number."""
    value = option_of(row, name)
    try:
        return float(value)
    except ValueError:
        raise Untold(f"{name}={value or 'None'} is no number") from None
