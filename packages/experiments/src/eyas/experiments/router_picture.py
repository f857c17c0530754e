"""router.svg of a run: each mixture's load per expert over the steps, beside MaxVio, entropy and dropped share."""

# T steps, E experts

from __future__ import annotations

import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from eyas.experiments.router_metrics import Numbers, Router, read_routers
from eyas.experiments.run_folder import ROUTERS

MOST_STEPS = 240
"""Columns of a heat map; more would be narrower than a pixel."""
OCTAVES = 2
"""Loads of 1/4 and 4 times the mean, and beyond, have full colour."""
STARVED, CROWDED = (42, 120, 214), (227, 73, 72)
WIDTH, LEFT, MAP_WIDTH, LINE_WIDTH, GAP = 1120, 64, 420, 150, 52
TOP, ROW_GAP = 106, 58
STYLE = """
svg { background: #fcfcfb } text { font: 12px system-ui, sans-serif; fill: #52514e }
.title { font-size: 16px; font-weight: 600; fill: #0b0b0b } .name { font-weight: 600; fill: #0b0b0b }
.frame { fill: none; stroke: #c3c2b7 } .limit { stroke: #898781; stroke-dasharray: 3 3 }
.line { fill: none; stroke: #2a78d6; stroke-width: 1.5; stroke-linejoin: round } .end { text-anchor: end }
.middle { text-anchor: middle } image { image-rendering: pixelated }
@media (prefers-color-scheme: dark) {
svg { background: #1a1a19 } text { fill: #c3c2b7 } .title, .name { fill: #ffffff }
.frame { stroke: #52514e } .line { stroke: #3987e5 }
}
"""


def draw_routers(folder: Path, metrics: Path) -> None:
    """Writes the picture of the run whose metrics.csv is given into its folder; nothing for a run without mixtures."""
    routers = read_routers(metrics, MOST_STEPS)
    if routers:
        (folder / ROUTERS).write_text(picture(routers, folder.name), encoding="utf-8")


def picture(routers: Sequence[Router], run: str) -> str:
    """The whole picture as SVG, light or dark as its viewer is."""
    heights = [min(160, max(72, 4 * router.load_TE.shape[1])) for router in routers]
    height = TOP + sum(heights) + ROW_GAP * len(routers)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        text(LEFT, 28, f"Routers of {run}", "title"),
        *legend(LEFT, 46),
    ]
    top = TOP
    for router, tall in zip(routers, heights, strict=True):
        parts += row(router, top, tall)
        top += tall + ROW_GAP
    return "\n".join([*parts, "</svg>\n"])


def legend(x: float, y: float) -> Iterator[str]:
    """What the colours of the heat maps mean."""
    wide = 120
    stops = [(0, STARVED, 1), (0.5, STARVED, 0), (0.5, CROWDED, 0), (1, CROWDED, 1)]
    yield '<linearGradient id="load">'
    for offset, colour, opacity in stops:
        yield f'<stop offset="{offset}" stop-color="rgb{colour}" stop-opacity="{opacity}"/>'
    yield f'</linearGradient><rect x="{x}" y="{y}" width="{wide}" height="10" fill="url(#load)"/>'
    yield frame(x, y, wide, 10)
    for share, label in ((0, "¼"), (0.25, "½"), (0.5, "1"), (0.75, "2"), (1, "4")):
        yield text(x + share * wide, y + 23, label, "middle")
    yield text(x + wide + 14, y + 10, "tokens that wanted an expert, as a multiple of the mean over the experts")


def row(router: Router, top: float, height: float) -> Iterator[str]:
    """One mixture: its heat map and its three lines."""
    steps, experts = router.steps_T, router.load_TE.shape[1]
    yield text(LEFT, top - 8, router.name, "name")
    yield f'<image x="{LEFT}" y="{top}" width="{MAP_WIDTH}" height="{height}" preserveAspectRatio="none" '
    yield f'href="data:image/png;base64,{b64encode(png(colours(router.load_TE.T))).decode()}"/>'
    yield frame(LEFT, top, MAP_WIDTH, height)
    yield text(LEFT - 6, top + 10, "expert 0", "end") + text(LEFT - 6, top + height - 2, str(experts - 1), "end")
    yield from ends(LEFT, top + height + 15, MAP_WIDTH, steps)
    even, figures = math.log(experts), router.figures
    lines = (
        ("MaxVio", figures["max_violation"], None, "{:.2f}"),
        ("entropy, nats (- - even)", figures["entropy"], even, "{:.2f}"),
        ("dropped share", figures["dropped"], None, "{:.1%}"),
    )
    for index, (name, values_T, limit, form) in enumerate(lines):
        x = LEFT + MAP_WIDTH + GAP + index * (LINE_WIDTH + GAP)
        yield text(x, top - 8, name)
        yield from line(x, top, height, steps, values_T, limit, form)


def line(
    x: float, top: float, height: float, steps_T: Numbers, values_T: Numbers, limit: float | None, form: str
) -> Iterator[str]:
    """A small plot from zero to what the values reach, with their last one told; `limit` is a value to reach."""
    most = max(float(values_T.max()), limit or 0.0, 0.01) * 1.05
    first, span = float(steps_T[0]), max(float(steps_T[-1] - steps_T[0]), 1.0)

    def down(value: float) -> float:
        return top + height * (1 - value / most)

    yield frame(x, top, LINE_WIDTH, height)
    yield text(x - 5, top + 10, form.format(most), "end") + text(x - 5, top + height, form.format(0), "end")
    if limit is not None:
        yield f'<path class="limit" d="M{x} {down(limit):.1f}h{LINE_WIDTH}"/>'
    points = zip(x + (steps_T - first) / span * LINE_WIDTH, map(down, values_T), strict=True)
    yield f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    yield text(x + LINE_WIDTH, top + height + 15, f"at last {form.format(values_T[-1])}", "end")


def ends(x: float, y: float, width: float, steps_T: Numbers) -> Iterator[str]:
    """The first and the last step below a plot, counted from one as on the terminal."""
    yield text(x, y, f"step {int(steps_T[0]) + 1}") + text(x + width, y, f"{int(steps_T[-1]) + 1}", "end")


def text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(content)}</text>'


def frame(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="frame"/>'


def colours(load_ET: Numbers) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Red, green, blue and opacity of each load, (E, T, 4): the farther from even, the more of its colour, whatever
    stands behind."""
    octaves = np.log2(np.maximum(load_ET, 2.0**-OCTAVES)).clip(-OCTAVES, OCTAVES)
    pixels = np.where((octaves < 0)[..., None], STARVED, CROWDED)
    return np.dstack([pixels, np.rint(255 * np.abs(octaves) / OCTAVES)]).astype(np.uint8)


def png(pixels_HW4: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """The pixels as a PNG file, which holds a heat map in a few kilobytes where rectangles would take megabytes."""
    height, width, _ = pixels_HW4.shape
    lines = np.pad(pixels_HW4.reshape(height, -1), ((0, 0), (1, 0)))  # each line begins with its filter: none
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0),
        b"IDAT": zlib.compress(lines.tobytes(), 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
