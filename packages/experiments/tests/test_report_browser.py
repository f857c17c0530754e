"""The report in a browser: loads, sorts, filters, toggles, zooms, is light and dark, says nothing to the console."""

import pytest
from browser import DARK, LIGHT, acted, needs_browser, opened
from made_runs import make_run, make_sweep

from eyas.experiments.report.command import write_report
from eyas.experiments.report.curves import MOST_CURVES

pytestmark = [pytest.mark.browser, needs_browser]
LIMIT_SECONDS = 2.0


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The page of two models with three seeds each."""
    return write_report([make_sweep(tmp_path_factory.mktemp("few"), 6, routers=True)])


@pytest.fixture
def act(few, tmp_path):
    """Runs a script in the page."""
    return lambda script, *flags: acted(few, tmp_path, script, *flags)


@pytest.mark.parametrize("runs", [2, 60])
def test_the_page_loads_as_it_is_without_a_word_to_the_console(runs, tmp_path):
    page = write_report([make_sweep(tmp_path / "runs", runs)])
    document, said = opened(page, tmp_path / "profile")
    assert said == []
    assert document.count("<canvas") == 7
    assert 'aria-pressed="true"' in document.partition('id="legend"')[2]


def test_a_word_to_the_console_would_be_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><script>console.log('a word'); nothing.at.all</script>")
    _, said = opened(page, tmp_path / "profile")
    assert ["a word" in said[0], "ReferenceError" in said[1]] == [True, True]


def test_a_heading_sorts_up_and_down_and_leaves_what_is_missing_last(tmp_path):
    make_sweep(tmp_path / "runs", 6)
    make_run(tmp_path / "runs" / "6", "parallel", 0.001, state="failed")
    script = """
      const head = [...document.querySelectorAll("#table thead th")].find((th) => th.textContent === "accuracy");
      const order = () => [...document.querySelectorAll("#table tbody tr")].map((line) => line.cells[1].textContent);
      const seen = [order()];
      for (let i = 0; i < 2; i++) { head.firstChild.click(); seen.push(order(), head.getAttribute("aria-sort")); }
      return seen;"""
    assert acted(write_report([tmp_path / "runs"]), tmp_path, script) == [
        ["hybrid", "mamba2", "parallel"],
        ["mamba2", "hybrid", "parallel"], "ascending",
        ["hybrid", "mamba2", "parallel"], "descending",
    ]  # fmt: skip


def test_no_cell_writes_over_the_next(tmp_path):
    make_sweep(tmp_path / "runs" / "2026-11-22_19-45-42", 6)
    script = """
      const over = (cell) => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        return text.getBoundingClientRect().right > cell.getBoundingClientRect().right;
      };
      return [...document.querySelectorAll("#table tr > *")].filter(over).map((cell) => cell.textContent);"""
    assert acted(write_report([tmp_path / "runs"]), tmp_path, script) == []


def test_the_legend_toggles_rows_and_the_filter_narrows_table_and_plots(act):
    seen = act("""
      const shown = () => { charts[0].draw(); return charts[0].visible().map((line) => rows[line.row].label) };
      const legend = [...document.querySelectorAll("#legend button:not(.action)")];
      charts[0].draw();
      const before = charts[0].range;
      legend[0].click();
      const toggled = shown(), pressed = legend.map((button) => button.getAttribute("aria-pressed"));
      const after = charts[0].range;
      document.querySelector("#legend .action").click();
      const all = shown().length;
      const filter = document.getElementById("filter");
      filter.value = "hybrid";
      filter.dispatchEvent(new Event("input"));
      const lines = [...document.querySelectorAll("#table tbody tr")].map((line) => line.hidden);
      return { toggled, pressed, all, filtered: shown(), lines, fits: after[2] > before[2] };""")
    assert seen == {
        "toggled": ["model=mamba2"] * 3, "pressed": ["false", "true"], "all": 6,
        "filtered": ["model=hybrid"] * 3, "lines": [False, True], "fits": True,
    }  # fmt: skip


def test_dragging_zooms_and_a_double_click_shows_all(act):
    seen = act("""
      const chart = charts[0], canvas = chart.canvas;
      chart.draw();
      const whole = chart.range, frame = canvas.getBoundingClientRect();
      canvas.setPointerCapture = () => {};
      const point = (name, x, y) => canvas.dispatchEvent(
        new PointerEvent(name, { clientX: frame.left + x, clientY: frame.top + y }));
      point("pointerdown", 100, 40); point("pointermove", 200, 120); point("pointerup", 200, 120);
      chart.draw();
      const zoomed = chart.range;
      canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      chart.draw();
      const moved = chart.range;
      canvas.dispatchEvent(new MouseEvent("dblclick"));
      chart.draw();
      return { whole, zoomed, moved, again: chart.range };""")
    whole, zoomed, moved = seen["whole"], seen["zoomed"], seen["moved"]
    assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
    assert whole[2] < zoomed[2] < zoomed[3] < whole[3]
    assert moved[0] > zoomed[0] and moved[2] == pytest.approx(zoomed[2])
    assert seen["again"] == whole


def test_pointing_at_a_line_tells_its_run_step_and_value(act):
    seen = act("""
      const chart = charts[0], tip = document.getElementById("tip");
      chart.draw();
      const frame = chart.canvas.getBoundingClientRect(), line = chart.lines[4];
      const at = (x, y) => chart.canvas.dispatchEvent(
        new PointerEvent("pointermove", { clientX: frame.left + x, clientY: frame.top + y }));
      at(chart.atX(line.xs[30]), chart.atY(line.ys[30]));
      const near = [tip.hidden, tip.textContent, told(line.ys[30]), hovered];
      at(chart.box.x + 5, chart.box.y + chart.box.h - 1);
      return [...near, tip.hidden, hovered];""")
    hidden, text, value, row, *away = seen
    assert (hidden, text, row) == (False, f"model=mamba2 · 4 · step 31: {value}", [1])
    assert away == [True, []]


def test_a_line_that_joins_rows_filters_and_lights_all_of_them(tmp_path):
    for number, (model, rate) in enumerate((m, r) for m in ("hybrid", "mamba2") for r in (0.001, 0.01)):
        make_run(tmp_path / "runs" / str(number), model, rate, columns="optimizer.learning_rate")
    seen = acted(
        write_report([tmp_path / "runs"]),
        tmp_path,
        """
      const lines = [...document.querySelectorAll("#table tbody tr")];
      lines[1].dispatchEvent(new PointerEvent("pointerenter"));
      const lit = hovered;
      const filter = document.getElementById("filter");
      filter.value = "hybrid";
      filter.dispatchEvent(new Event("input"));
      charts[0].draw();
      return [lines.length, lit, lines.map((line) => line.hidden), charts[0].visible().map((line) => line.row)];""",
    )
    assert seen == [2, [2, 3], [False, True], [0, 1]]


def test_columns_are_chosen(act):
    seen = act("""
      const hidden = (name) => {
        const heads = [...document.querySelectorAll("#table thead th")];
        const column = heads.findIndex((head) => head.textContent === name);
        return [...document.getElementById("table").rows].map((line) => line.cells[column].hidden);
      };
      const labels = [...document.querySelectorAll("#columns label")];
      const box = labels.find((label) => label.textContent.trim() === "accuracy@64");
      const before = hidden("accuracy@64");
      box.firstChild.click();
      return [before, hidden("accuracy@64"), hidden("accuracy")];""")
    assert seen == [[True] * 3, [False] * 3, [False] * 3]


@pytest.mark.parametrize(("scheme", "dark"), [(LIGHT, False), (DARK, True)])
def test_the_page_is_light_or_dark_as_the_system_is_and_the_button_turns_it_over(act, scheme, dark):
    script = """
      const darkness = () => [document.body, charts[0].canvas].map(
        (element) => Number(getComputedStyle(element).backgroundColor.match(/[0-9]+/)[0]) < 128);
      const first = darkness();
      document.getElementById("theme").click();
      return [first, darkness()];"""
    assert act(script, scheme) == [[dark, dark], [not dark, not dark]]


def test_nothing_that_a_run_says_is_run(tmp_path):
    attack = "</script><img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    runs = [make_run(tmp_path / "runs" / name, attack, passes=[attack]) for name in ("<b>1", "<script>2")]
    (runs[0] / "status.json").write_text('{"state": "failed", "error": "<script>document.title=1</script>"}')
    script = "return [document.title, document.querySelectorAll('b, main script, main img').length];"
    assert acted(write_report([tmp_path / "runs"]), tmp_path, script) == ["Runs of runs", 0]


def test_500_runs_load_and_draw_in_two_seconds(tmp_path):
    page = write_report([make_sweep(tmp_path / "runs", 500, steps=200, routers=True, more=MOST_CURVES)])
    script = """
      for (const chart of charts) chart.draw();
      const pictures = document.querySelectorAll("#routers img").length;
      return [performance.now() / 1000, charts.map((chart) => chart.lines.length), pictures];"""
    loads = [acted(page, tmp_path / str(attempt), script) for attempt in range(3)]
    for _, lines, pictures in loads:
        assert lines[:MOST_CURVES] == [500] * MOST_CURVES and pictures > 20
    assert min(seconds for seconds, *_ in loads) < LIMIT_SECONDS


def test_on_paper_everything_is_drawn_and_light(act):
    seen = act("""
      const drawn = () => charts.map((chart) => chart.lines !== null);
      dispatchEvent(new Event("beforeprint"));
      const paper = [drawn().every(Boolean), document.documentElement.dataset.theme];
      dispatchEvent(new Event("afterprint"));
      return [...paper, document.documentElement.dataset.theme];""", DARK)  # fmt: skip
    assert seen == [True, "light", ""]
