"""The picture of a run's routers shows what its metrics.csv says."""

import base64
import re
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from eyas.experiments.router_metrics import read_routers
from eyas.experiments.router_picture import CROWDED, STARVED, draw_routers
from eyas.experiments.run_folder import ROUTERS
from eyas.experiments.run_logger import RunLogger

SVG = "{http://www.w3.org/2000/svg}"
FEW, MANY = "blocks.1.branches.moe", "shared.<odd> & co.branches.moe"


def figures(name, load, max_violation=0.5):
    numbers = {f"{name}/load_{expert}": value for expert, value in enumerate(load)}
    return numbers | {f"{name}/max_violation": max_violation, f"{name}/entropy": 1.25, f"{name}/dropped": 0.0}


@pytest.fixture
def run(tmp_path):
    """A run of forty steps: of four experts the first starves from step 20 on and the last gets what it left."""
    log = RunLogger(tmp_path)
    for step in range(40):
        load = [1.0, 1.0, 1.0, 1.0] if step < 20 else [0.0, 1.0, 1.0, 2.0]
        twelve = figures(MANY, [1.0] * 12, max_violation=step / 10)
        log.log_metrics({"train/loss": 3.0, **figures(FEW, load), **twelve}, step)
    return tmp_path


def pixels(image):
    """Of an embedded PNG: (rows, columns, 4)."""
    data = base64.b64decode(image.attrib["href"].removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    begin = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[begin - 8 : begin - 4])
    lines = np.frombuffer(zlib.decompress(data[begin : begin + length]), np.uint8).reshape(height, 1 + 4 * width)
    return lines[:, 1:].reshape(height, width, 4)


def test_a_heat_map_has_a_row_for_each_expert_and_a_column_for_each_step(run):
    draw_routers(run, run / "metrics.csv")
    few, many = ElementTree.parse(run / ROUTERS).iter(f"{SVG}image")
    found = pixels(few)
    assert found.shape == (4, 40, 4)
    assert pixels(many).shape == (12, 40, 4)
    assert not found[:, :20, 3].any()  # even: whatever stands behind
    assert not found[1:3, :, 3].any()
    assert (found[0, 20:] == [*STARVED, 255]).all()
    assert (found[3, 20:] == [*CROWDED, 128]).all()  # twice the mean is half way to four times


def test_lines_have_a_point_for_each_step_and_tell_their_last_value(run):
    draw_routers(run, run / "metrics.csv")
    picture = ElementTree.parse(run / ROUTERS)
    lines = [[tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
             for line in picture.iter(f"{SVG}polyline")]  # fmt: skip
    assert [len(line) for line in lines] == [40] * 6
    rising = [y for _, y in lines[3]]  # MaxVio of the second mixture; SVG counts downwards
    assert rising == sorted(rising, reverse=True)
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {FEW, MANY, "at last 3.90", "at last 0.0%", "step 1", "40"} <= set(texts)


def test_a_long_run_is_read_at_even_distances_with_its_last_step(run):
    few, many = read_routers(run / "metrics.csv", 14)
    assert (few.name, many.name) == (FEW, MANY)
    assert list(few.steps_T) == list(range(0, 40, 3))
    assert few.load_TE.shape == (14, 4)
    assert many.figures["max_violation"][-1] == pytest.approx(3.9)


def test_rows_without_the_numbers_are_left_out(run):
    log = RunLogger(run)
    log.log_metrics({"validation/loss": 2.0}, 40)
    with (run / "metrics.csv").open("a") as stream:
        stream.write("41,3.0,1.0")  # of a run that was killed
    (few, _) = read_routers(run / "metrics.csv", 100)
    assert list(few.steps_T) == list(range(40))


def test_a_run_without_mixtures_has_no_picture(tmp_path):
    RunLogger(tmp_path).log_metrics({"train/loss": 3.0}, 0)
    draw_routers(tmp_path, tmp_path / "metrics.csv")
    assert not (tmp_path / ROUTERS).exists()


def test_the_picture_is_legible_in_light_and_dark(run):
    draw_routers(run, run / "metrics.csv")
    style = ElementTree.parse(run / ROUTERS).find(f"{SVG}style").text
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for theme in (light, dark):
        back, ink = (
            re.search(pattern, theme)[1] for pattern in (r"svg \{ background: (#\w+)", r"text \{.*?fill: (#\w+)")
        )
        assert contrast(back, ink) > 4.5  # what WCAG asks of text


def test_a_mixer_of_one_s_own_may_log_a_load_alone(tmp_path):
    RunLogger(tmp_path).log_metrics({"train/loss": 3.0, "mine/load_0": 1.0, "mine/load_1": 1.0}, 0)
    assert read_routers(tmp_path / "metrics.csv", 10) == []


def contrast(*colours):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
