"""Which axes of parallelism a test session proved together, as a table at its end."""

from collections import Counter
from itertools import combinations_with_replacement

from drawn import AXES, FEATURES

ROWS = (*AXES, *FEATURES)
proved: list[frozenset[str]] = []
"""The axes of every layout that computed what one process computes, and what else the case had."""


def note(case: frozenset[str]) -> None:
    """Counts a proved layout."""
    proved.append(case)


def table() -> list[str]:
    """Lines that tell how many proved layouts had each axis (on the diagonal) and each pair of axes; below, how many
    with each axis had what else."""
    counts = Counter(pair for case in proved for pair in combinations_with_replacement(sorted(case, key=ROWS.index), 2))
    width = max(map(len, ROWS)) + 5
    lines = [" " * width + "".join(f"{number:>5}" for number in range(1, len(AXES) + 1))]
    for row, name in enumerate(ROWS):
        cells = [counts[axis, name] for axis in AXES[: row + 1]]
        number = row + 1 if row < len(AXES) else ""
        lines.append(f"{number:>3}  {name:<{width - 5}}" + "".join(f"{cell:>5}" for cell in cells))
    return lines
