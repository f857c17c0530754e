"""Division of a row of costs into consecutive parts, exactly: no other division has a cheaper most expensive part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate


def balanced_cuts(costs: Sequence[float], parts: int, places: Sequence[int]) -> tuple[int, ...]:
    """Numbers of costs before each cut. `places` are the cuts to choose from, in order, at least parts - 1 of them.

    Of the divisions whose most expensive part is the cheapest, the one with the least sum of squares: it is balanced in
    the parts too that a great last cost leaves room for.
    """
    before = [0.0, *accumulate(costs)]
    edges = [0, *places, len(costs)]
    at_edges = [before[edge] for edge in edges]
    greatest, _ = best(at_edges, parts, math.inf, max)
    _, chosen = best(at_edges, parts, greatest, lambda total, part: total + part * part)
    return tuple(edges[index] for index in chosen)


def best(
    before: Sequence[float], parts: int, limit: float, add: Callable[[float, float], float]
) -> tuple[float, list[int]]:
    """The least total over the divisions into `parts` whose parts cost `limit` at most, and the indices of its cuts.

    before: the cost before each edge. Dynamic programming: the best division of everything before an edge into n parts
    is the best one before some earlier edge into n - 1, and one part more.
    """
    ends = len(before)
    totals = [0.0] + [math.inf] * (ends - 1)
    steps = []
    for _ in range(parts):
        found, last = [math.inf] * ends, [0] * ends
        for end in range(1, ends):
            for start in range(end - 1, -1, -1):
                part = before[end] - before[start]
                if part > limit or add(0.0, part) >= found[end]:
                    break  # so would every longer part
                total = add(totals[start], part)
                if total < found[end]:
                    found[end], last[end] = total, start
        totals = found
        steps.append(last)
    cuts, end = [], ends - 1
    for last in reversed(steps[1:]):
        end = last[end]
        cuts.append(end)
    return totals[-1], cuts[::-1]
