"""The report's file: what stands in it, that it needs nothing else, and that texts of runs stay texts."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_runs import LENGTHS, QUESTION, make_run, make_sweep

from eyas.experiments.cli import main
from eyas.experiments.report.command import write_report
from eyas.experiments.report.curves import MOST_CURVES
from eyas.experiments.report.markup import Markup, element
from eyas.experiments.run_records import CURVES

MOST_BYTES = 10 * 2**20


class Page(HTMLParser):
    """Tags with their attributes, and the text of each table cell."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.cells, self.inside, self.texts = [], [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.data = json.loads(re.search(r'id="data">(.*?)</script>', self.text, re.DOTALL)[1])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self.inside or "th" in self.inside:
            self.cells[-1] += data
        if not {"script", "style"} & set(self.inside):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two models with three seeds each, and one that failed."""
    folder = make_sweep(tmp_path_factory.mktemp("report") / "sweep", 6, routers=True)
    make_run(folder / "6", "parallel", 0.001, state="failed")
    return folder


@pytest.fixture(scope="module")
def page(sweep):
    return Page(write_report([sweep]))


def test_question_budget_and_verdicts_stand_on_the_page(page):
    texts = " ".join(page.texts)
    assert QUESTION in texts and "Budget: two cores" in texts
    assert "✓ passed" in page.cells and "✗ failed" in page.cells
    assert "accuracy <= 0.2 where model=mamba2" in page.cells


def test_the_table_has_means_deviations_costs_and_a_mark_beyond_the_noise(page, sweep):
    metrics = [json.loads((sweep / name / "metrics.json").read_text()) for name in "012"]
    mean, spread = (f([m["accuracy"] for m in metrics]) for f in (np.mean, lambda v: np.std(v, ddof=1)))
    cell = f"{mean:.4g} ± {spread:.2g}"
    assert cell in page.cells
    assert [attributes["title"] for attributes in page.all("strong")] == ["best beyond the noise"] * 7
    assert {"parameters", "training_flops_per_token", "tokens_per_second", "memory_gib"} <= set(page.cells)
    assert "FAILED: out of luck" in page.cells


def test_runs_are_linked_from_where_the_page_lies(page, sweep, tmp_path):
    links = [unquote(attributes["href"]) for attributes in page.all("a")]
    assert {"0/", "5/", "6/"} <= set(links)
    elsewhere = tmp_path / "deep" / "other.html"
    elsewhere.parent.mkdir()
    links = [unquote(attributes["href"]) for attributes in Page(write_report([sweep], elsewhere)).all("a")]
    assert {(elsewhere.parent / link).resolve() for link in links} == {(sweep / str(n)).resolve() for n in range(7)}


def test_the_data_to_draw_is_what_the_runs_logged(page, sweep):
    curves = {curve["name"]: curve["lines"] for curve in page.data["curves"]}
    assert [*curves] == ["train/loss", "validation/loss", "learning_rate", "grad_norm", "accuracy", "tokens_per_second"]
    run, steps, values = curves["train/loss"][4]
    assert page.data["runs"][run] == [1, "4"]
    logged = np.genfromtxt(sweep / "4" / CURVES, delimiter=",", names=True)
    assert np.array_equal(np.frombuffer(base64.b64decode(steps), "<f4"), logged["step"] + 1)
    assert np.allclose(np.frombuffer(base64.b64decode(values), "<f4"), logged["trainloss"], rtol=1e-6)


def test_metrics_by_length_have_mean_and_deviation(page, sweep):
    (chart,) = page.data["lengths"]
    assert chart["name"] == "accuracy"
    metrics = [json.loads((sweep / name / "metrics.json").read_text()) for name in "012"]
    row, points = chart["lines"][0]
    expected = [[n, np.mean(v), np.std(v, ddof=1)] for n in LENGTHS for v in [[m[f"accuracy@{n}"] for m in metrics]]]
    assert row == 0
    assert np.allclose(points, expected)


def test_routers_are_pictures_of_the_first_run_of_each_row(page):
    pictures = [attributes for attributes in page.all("img") if attributes["src"].startswith("data:image/svg+xml")]
    assert [attributes["alt"][-1] for attributes in pictures] == ["0", "3"]
    assert b"blocks.1.branches.moe" in base64.b64decode(pictures[0]["src"].partition(",")[2])


def test_what_varies_and_where_runs_were_made_is_told(page):
    assert "model.pattern" in page.cells and "[mamba2, ffn]" in page.cells
    assert "optimizer.learning_rate" not in page.cells
    assert "3.11.9" in page.cells and "eyas hybrid (3) · eyas mamba2 (3) · eyas parallel (1)" in page.cells


def test_the_page_needs_no_other_file_and_allows_no_script_but_its_own(page):
    assert not page.all("link")
    assert not any("src" in attributes for attributes in page.all("script"))
    assert not re.search(r"https?://|@import|url\(", page.text.replace("http-equiv", ""))
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    script = page.text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")


TEXTS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20) | st.sampled_from(
    ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '" onclick="alert(1)', "]]><!--", "&lt;"]
)


@given(name=TEXTS, value=TEXTS)
def test_texts_are_escaped_in_elements_and_attributes(name, value):
    class Reader(HTMLParser):
        seen: list = []

        def handle_starttag(self, tag, attributes):
            self.seen = [*self.seen, (tag, attributes)]

        def handle_data(self, data):
            self.seen = [*self.seen, data]

    reader = Reader()
    reader.feed(element("td", name, element("b", Markup("&amp;")), title=value))
    reader.close()
    assert reader.seen[0] == ("td", [("title", value)])
    assert "".join(part for part in reader.seen if isinstance(part, str)) == name + "&"


def test_what_runs_say_is_never_markup(tmp_path):
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    for name in ("<script>1", "2 & 'quoted' #?%"):
        folder = make_run(tmp_path / "runs" / name, attack, passes=[attack], routers=True)
        (folder / "environment.json").write_text(json.dumps({attack: attack}))
    (folder / "status.json").write_text(json.dumps({"state": "failed", "error": attack}))
    found = Page(write_report([tmp_path / "runs"]))
    assert len(found.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert attack in found.cells
    links = [unquote(attributes["href"]) for attributes in found.all("a")]
    assert all((tmp_path / "runs" / link).is_dir() for link in links)


def test_a_damaged_run_is_told_and_the_others_are_drawn(tmp_path):
    make_sweep(tmp_path, 3)
    with (tmp_path / "1" / CURVES).open("a") as stream:
        stream.write("1,2,3,4,5,6,7,8,9\n")
    (tmp_path / "2" / "environment.json").unlink()
    found = Page(write_report([tmp_path]))
    assert [run for run, *_ in found.data["curves"][0]["lines"]] == [0, 2]
    texts = " ".join(found.texts)
    assert f"{tmp_path / '1' / CURVES} is damaged" in texts and "no readable environment.json" in texts


def test_long_curves_are_thinned_and_the_page_says_so(tmp_path):
    make_run(tmp_path / "long", steps=5000)
    found = Page(write_report([tmp_path]))
    _, steps, values = found.data["curves"][0]["lines"][0]
    assert len(base64.b64decode(steps)) == len(base64.b64decode(values)) <= 4 * 2000
    assert any("thinned to at most 2000 of their points" in text for text in found.texts)


def test_of_many_rows_the_values_are_counted_and_long_labels_are_cut(tmp_path):
    for number in range(10):
        folder = make_run(tmp_path / str(number), f"model-{'x' * 100}-{number}", passes=[])
        config = json.loads((folder / "config.yaml").read_text())
        config["model"] |= {f"option{index}": number >> index % 4 for index in range(10)}
        (folder / "config.yaml").write_text(json.dumps(config))
        (folder / "overrides.yaml").write_text(json.dumps([f"model.option{index}=0" for index in range(10)]))
    found = Page(write_report([tmp_path]))
    assert "0 (8) · 1 (2)" in found.cells
    assert any(cell.endswith("x… (1) · and 2 other values") for cell in found.cells)
    assert all(label.startswith(f"{number}: option0=") for number, label in enumerate(found.data["rows"]))
    boxes = [attributes for attributes in found.all("input") if attributes["type"] == "checkbox"]
    assert ["checked" in box for box in boxes[:11]] == [True] * 9 + [False] * 2


def test_router_pictures_beyond_their_room_are_left_out_and_the_page_says_so(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("eyas.experiments.report.gather.ROUTER_BYTES", 10_000)
    found = Page(write_report([sweep], tmp_path / "page.html"))
    assert len(found.all("img")) == 1
    assert any("1 more are left out; finished runs keep theirs as router.svg." in text for text in found.texts)


def test_500_runs_fit_into_ten_megabytes(tmp_path):
    make_sweep(tmp_path, 500, steps=200, routers=True, more=MOST_CURVES)
    found = Page(write_report([tmp_path]))
    assert len(found.text.encode()) < MOST_BYTES
    assert len(found.data["runs"]) == 500
    assert [len(curve["lines"]) for curve in found.data["curves"]] == [500] * MOST_CURVES
    assert len(found.all("img")) > 20 and any("more are left out" in text for text in found.texts)


def test_the_command_writes_the_page_and_prints_verdicts(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(sweep), str(sweep / "0")]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()
    assert "passed  accuracy <= 0.2 where model=mamba2  (accuracy 0.03003 against 0.2 in model=mamba2)\n" in out
    assert out.endswith("Report: report.html\n")


def test_a_strict_report_exits_with_what_became_of_the_rules(sweep, tmp_path, capsys):
    page = str(tmp_path / "page.html")
    assert main(["report", str(sweep), "-o", page, "--strict"]) == 1
    out, err = capsys.readouterr()
    not_passed = sum(line.startswith(("failed", "undecided")) for line in out.splitlines())
    passed = sum(line.startswith("passed") for line in out.splitlines())
    assert not_passed > 0 and passed > 0
    assert err == f"eyas: {not_passed} of {not_passed + passed} pass rules not passed\n"
    assert main(["report", str(sweep), "--strict", "--csv"]) == 2
    make_sweep(tmp_path / "ruled", 2)
    for config in (tmp_path / "ruled").glob("*/config.yaml"):
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "experiment": {}}))
    capsys.readouterr()
    assert main(["report", str(tmp_path / "ruled"), "-o", page, "--strict"]) == 2
    assert "no run states one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "holds"), [("csv", "runs,model,validation_loss"), ("md", "**"), ("latex", r"\textbf{")]
)
def test_the_command_prints_the_same_table_as_eyas_results(sweep, capsys, form, holds):
    assert main(["report", str(sweep), f"--{form}"]) == 0
    printed = capsys.readouterr().out
    assert holds in printed
    assert main(["results", str(sweep), f"--{form}"]) == 0
    assert capsys.readouterr().out == printed


def test_what_cannot_be_written_or_makes_no_sense_is_refused(sweep, tmp_path, capsys):
    assert main(["report", str(sweep), "-o", str(tmp_path / "absent" / "page.html")]) == 2
    assert (
        "cannot be written (No such file or directory); choose another place with --output" in capsys.readouterr().err
    )
    assert main(["report", str(sweep), "--csv", "-o", "page.html"]) == 2
    assert "--csv prints the table and writes no page; leave out --output" in capsys.readouterr().err


def test_a_report_needs_neither_torch_nor_lightning(sweep, tmp_path):
    program = (
        "import sys; from eyas.experiments.cli import main; main(sys.argv[1:]); "
        "print(*{'torch', 'lightning', 'megatron', 'hydra'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program, "report", str(sweep), "-o", str(tmp_path / "page.html")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == ""
