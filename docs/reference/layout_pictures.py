"""Draws docs/pictures: `python docs/reference/layout_pictures.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from picture import BLUE, GREEN, GREY, ORANGE, VIOLET, Picture

FOLDER = Path(__file__).parents[1] / "pictures"
FORWARD, BACKWARD = 1, 2
"""Time that a microbatch takes on a stage."""


def grid() -> Picture:
    """Eight processes of layout.tensor=2 layout.pipeline=2 layout.data=2."""
    picture = Picture(640, 250, "Eight processes as replicas, stages and tensor-parallel ranks")
    for replica in range(2):
        left = 20 + 315 * replica
        picture.frame(left, 40, 290, 190)
        picture.label(left + 8, 30, f"replica {replica}: half of each global batch")
        for stage in range(2):
            top = 62 + 84 * stage
            picture.label(left + 12, top + 4, f"stage {stage}: blocks {2 * stage}, {2 * stage + 1}", 12)
            for rank in range(2):
                number = 4 * stage + 2 * replica + rank
                picture.box(left + 14 + 132 * rank, top + 12, 128, 50, (BLUE, ORANGE)[rank], f"process {number}")
    return picture


def block() -> Picture:
    """A Falcon-H1 block on two tensor-parallel ranks: one gathering, one reduction."""
    picture = Picture(680, 236, "A block with two branches on two ranks: gathered once, reduced once")
    for rank in range(2):
        top = 34 + 100 * rank
        colour = (BLUE, ORANGE)[rank]
        picture.label(8, top + 36, f"rank {rank}")
        picture.box(60, top + 16, 74, 34, colour, "tokens / 2")
        picture.box(170, top, 84, 66, GREY, "all tokens")
        picture.box(300, top - 4, 150, 32, colour, "attention: its heads", 12)
        picture.box(300, top + 38, 150, 32, colour, "Mamba-2: its heads", 12)
        picture.box(486, top + 16, 58, 34, colour, "+")
        picture.box(596, top + 16, 74, 34, colour, "tokens / 2")
        picture.arrow(134, top + 33, 168, top + 33)
        for offset in (12, 54):
            picture.arrow(254, top + 33, 298, top + offset)
            picture.arrow(450, top + offset, 484, top + 33)
        picture.arrow(544, top + 33, 594, top + 33)
    picture.label(152, 22, "all-gather", 12, "middle")
    picture.label(570, 22, "reduce-scatter", 12, "middle")
    return picture


def pipeline() -> Picture:
    """When four stages work on eight microbatches, forward and backward in turn (1F1B)."""
    stages, microbatches, unit = 4, 8, 17
    times = one_forward_one_backward(stages, microbatches)
    end = max(begin + (FORWARD if kind == "F" else BACKWARD) for work in times for kind, _, begin in work)
    picture = Picture(90 + end * unit, 40 + 34 * stages, "A step of four pipeline stages and eight microbatches")
    for stage, work in enumerate(times):
        top = 30 + 34 * stage
        picture.label(6, top + 19, f"stage {stage}")
        for kind, number, begin in work:
            width = unit * (FORWARD if kind == "F" else BACKWARD)
            picture.box(70 + begin * unit, top, width, 28, BLUE if kind == "F" else GREEN, str(number), 11)
    picture.label(70, 20, "blue: forward, green: backward; where there is no box a stage waits", 12)
    return picture


def one_forward_one_backward(stages: int, microbatches: int) -> list[list[tuple[str, int, int]]]:
    """For each stage its passes, F or B, with the microbatch and the time at which they begin."""
    orders = []
    for stage in range(stages):
        ahead = min(stages - stage - 1, microbatches)
        steady = [(kind, ahead * (kind == "F") + n) for n in range(microbatches - ahead) for kind in "FB"]
        orders.append(
            [("F", n) for n in range(ahead)] + steady + [("B", n) for n in range(microbatches - ahead, microbatches)]
        )
    done: dict[tuple[str, int, int], int] = {}
    clocks, places = [0] * stages, [0] * stages
    found: list[list[tuple[str, int, int]]] = [[] for _ in range(stages)]
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        for stage, order in enumerate(orders):
            if places[stage] == len(order):
                continue
            kind, number = order[places[stage]]
            before = ("F", number, stage - 1) if kind == "F" else ("B", number, stage + 1)
            if 0 <= before[2] < stages and before not in done:
                continue
            begin = max(clocks[stage], done.get(before, 0))
            clocks[stage] = done[kind, number, stage] = begin + (FORWARD if kind == "F" else BACKWARD)
            found[stage].append((kind, number, begin))
            places[stage] += 1
    return found


def context() -> Picture:
    """Which pieces of a sequence two ranks have, and what causal attention reads for each."""
    picture = Picture(640, 250, "A sequence in four pieces on two ranks, and the attention of each")
    side = 44
    for index, (name, owners) in enumerate((("zigzag (the default)", "0110"), ("contiguous", "0011"))):
        left = 110 + 290 * index
        picture.label(left, 22, name)
        for row, owner in enumerate(owners):
            for column in range(row + 1):
                fill = (BLUE, ORANGE)[int(owner)]
                picture.box(left + side * column, 34 + side * row, side - 3, side - 3, fill, owner)
        work = {rank: sum(row + 0.5 for row, owner in enumerate(owners) if owner == rank) for rank in "01"}
        picture.label(left, 230, f"work: {work['0']:g} on rank 0, {work['1']:g} on rank 1", 12)
    for row in range(4):
        picture.label(98, 60 + side * row, f"queries {row}", 12, "end")
    return picture


def experts() -> Picture:
    """layout.tensor=2 layout.sequence=true layout.expert=2 layout.expert_tensor=1 on two processes."""
    picture = Picture(560, 190, "The same two processes share heads, and hold whole experts")
    for rank in range(2):
        left = 150 + 205 * rank
        fill = (BLUE, ORANGE)[rank]
        picture.frame(left - 8, 34, 196, 146)
        picture.label(left, 24, f"process {rank}")
        picture.box(left, 46, 180, 38, fill, f"heads {4 * rank} to {4 * rank + 3} of every layer")
        for expert in range(2):
            picture.box(left + 92 * expert, 124, 88, 44, (GREEN, VIOLET)[rank], f"expert {2 * rank + expert}")
    picture.label(8, 70, "everything else")
    picture.label(8, 150, "mixture of experts")
    picture.arrow(250, 96, 400, 120)
    picture.arrow(440, 96, 290, 120)
    picture.label(345, 104, "tokens", 12, "middle")
    return picture


PICTURES: dict[str, Callable[[], Picture]] = {
    "grid": grid, "block": block, "pipeline": pipeline, "context": context, "experts": experts,
}  # fmt: skip


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())


if __name__ == "__main__":
    main()
