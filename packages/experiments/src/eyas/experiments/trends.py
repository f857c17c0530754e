"""What rows of results say together: how a metric goes with the options that they differ in."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import correlation, mean

from eyas.experiments.metric_names import higher_is_better
from eyas.experiments.results import Row, beside_seed
from eyas.experiments.rules import Trend

Value = Callable[[Row, str], float | None]
"""A metric of a row, its mean over seeds; None where the row has none."""


class Untold(Exception):
    """The rows do not tell; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What was measured, and where."""

    value: float
    detail: str
    least: bool = False
    """Whether the truth may lie above the value."""


def measure(trend: Trend, rows: Sequence[Row], value_of: Value) -> Finding:
    """The trend over the rows. Raises Untold where a row has no results or the options do not vary."""
    found = [value_of(row, trend.metric) for row in rows]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        raise Untold(f"{len(found) - len(values)} of {len(found)} rows have no {trend.metric}")
    match trend.kind:
        case "spearman":
            return spearman([number(row, trend.options[0]) for row in rows], values)
        case "spread":
            return spread([option(row, trend.options[0]) for row in rows], values, trend)
        case "shift":
            return shift(rows, values, trend)


def spearman(option_values: Sequence[float], values: Sequence[float]) -> Finding:
    """Rank correlation (Spearman 1904): Pearson's, of ranks; what is alike shares the mean of its ranks. A value that
    is no number ranks highest."""
    known = [math.inf if math.isnan(value) else value for value in values]
    if min(len(set(option_values)), len(set(known))) < 2:
        raise Untold("nothing varies")
    return Finding(correlation(ranks(option_values), ranks(known)), f"over {len(values)} rows")


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in their order, from zero; the mean of their places for those that are alike."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def spread(chosen: Sequence[Hashable], values: Sequence[float], trend: Trend) -> Finding:
    """How far apart the means of the rows of each value of the option are at most."""
    means = grouped(chosen, values)
    if len(means) < 2:
        raise Untold(f"{trend.options[0]} does not vary")
    low, high = (end(means, key=means.__getitem__) for end in (min, max))
    return Finding(means[high] - means[low], f"{means[low]:.4g} at {low} to {means[high]:.4g} at {high}")


def shift(rows: Sequence[Row], values: Sequence[float], trend: Trend) -> Finding:
    """By how many places, in the order of all its values, the first option's best value differs at most between values
    of the second one. A best value at an end may lie beyond it, so the shift is then a lower bound."""
    higher = higher_is_better(trend.metric)
    if higher is None:
        raise Untold(f"nothing says whether more or less of {trend.metric} is better")
    moved, beside = trend.options
    grid = sorted({number(row, moved) for row in rows})
    places: dict[Hashable, int] = {}
    for width in dict.fromkeys(option(row, beside) for row in rows):
        here = [(number(row, moved), v) for row, v in zip(rows, values, strict=True) if option(row, beside) == width]
        means = grouped(*zip(*here, strict=True))
        if absent := [value for value in grid if value not in means]:
            raise Untold(f"no row has {moved}={absent[0]:g} and {beside}={width}")
        costs = [math.inf if math.isnan(means[value]) else (-1 if higher else 1) * means[value] for value in grid]
        places[width] = costs.index(min(costs))
    if len(places) < 2 or len(grid) < 2:
        raise Untold(f"{beside if len(grid) > 1 else moved} does not vary")
    best = ", ".join(f"{grid[place]:g} at {width}" for width, place in places.items())
    ends = {0, len(grid) - 1} & set(places.values())
    return Finding(max(places.values()) - min(places.values()), f"best {moved} {best}", least=bool(ends))


def grouped(keys: Sequence[Hashable], values: Sequence[float]) -> dict[Hashable, float]:
    """The mean of the values of each key."""
    return {key: mean(v for k, v in zip(keys, values, strict=True) if k == key) for key in dict.fromkeys(keys)}


def option(row: Row, name: str) -> str:
    """The option of a row's runs; of a list the item that stands in brackets behind the name."""
    bare, bracket, item = name.partition("[")
    if not bracket:
        return beside_seed(row.runs[0], name)
    value, place = row.runs[0].config.get(bare), int(item.rstrip("]"))
    if not isinstance(value, list) or place >= len(value):
        raise Untold(f"{bare}={value} has no item {place}")
    return str(value[place])


def number(row: Row, name: str) -> float:
    """The option as a number."""
    value = option(row, name)
    try:
        return float(value)
    except ValueError:
        raise Untold(f"{name}={value or 'None'} is no number") from None
