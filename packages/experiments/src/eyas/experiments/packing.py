"""Which documents share a sequence: best-fit packing, as in Ding et al. 2024 (arXiv 2404.10830), algorithm 1."""
# N documents, S places of a sequence

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.int64], places: int) -> list[list[int]]:
    """Lists of document numbers, each list with at most `places` tokens together.

    The longest document comes first, each goes where the least room is left over, and the result depends on the lengths
    (N,), from 1 to S, alone.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    """Rows by the room that they have left."""
    rooms: list[int] = []
    """The keys of it, in order."""
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        found = bisect_left(rooms, length)
        if found < len(rooms):
            room = rooms[found]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[found]
        else:
            room, row = places, len(rows)
            rows.append([])
        rows[row].append(document)
        if left := room - length:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    return rows
