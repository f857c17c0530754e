"""Which axes of parallelism a test session proved together, as a table at its end."""

from collections import Counter
from itertools import combinations_with_replacement

from drawn import AXES

proved: list[frozenset[str]] = []
"""The axes of every layout that computed what one process computes."""


def note(axes: frozenset[str]) -> None:
    """Counts a proved layout."""
    proved.append(axes)


def table() -> list[str]:
    """Lines that tell how many proved layouts had each axis (on the diagonal) and each pair of axes."""
    counts = Counter(pair for axes in proved for pair in combinations_with_replacement(sorted(axes, key=AXES.index), 2))
    width = max(map(len, AXES)) + 5
    lines = [" " * width + "".join(f"{number:>5}" for number in range(1, len(AXES) + 1))]
    for row, axis in enumerate(AXES):
        cells = [counts[other, axis] for other in AXES[: row + 1]]
        lines.append(f"{row + 1:>3}  {axis:<{width - 5}}" + "".join(f"{cell:>5}" for cell in cells))
    return lines
