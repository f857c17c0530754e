"""The documentation as a site: complete, without dead links, and readable from disk without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import acted, needs_browser
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "reference"))
from field_docs import options, table  # noqa: E402
from layout_pictures import BACKWARD, FORWARD, PICTURES, one_forward_one_backward  # noqa: E402
from links import inside_docs  # noqa: E402
from mixer_pages import mixer_pages  # noqa: E402
from navigation import navigation  # noqa: E402
from option_pages import command_page, option_page  # noqa: E402

from eyas.core.registry import mixers  # noqa: E402
from eyas.experiments.cli import COMMANDS, main  # noqa: E402
from eyas.experiments.run_config import TrainerConfig  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    told = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert told.returncode == 0, told.stderr
    return folder


def test_every_page_is_built_and_pictures_stand_in_them(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    pages |= {Path("reference/mixers", f"{kind}.html") for kind in mixers()} | {Path("index.html")}
    assert {page for page in pages if not (site / page).is_file()} == set()
    layouts = (site / "layouts.html").read_text()
    assert layouts.count('<svg class="picture"') == len(PICTURES)
    assert "prefers-color-scheme:dark" not in layouts.partition("<body")[2]


def test_no_page_asks_for_a_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet\"?[^>]*href=[\"']?([^\"' >]+)", text)
        assert not [place for place in loaded if "//" in place], page


@pytest.mark.browser
@needs_browser
def test_pages_open_from_disk(site, tmp_path):
    script = "return [document.title, document.querySelectorAll('table').length > 5]"
    assert acted(site / "reference" / "options.html", tmp_path, script) == ["Options of eyas train - Eyas", True]


def test_a_dead_link_is_warned_of():
    warned = []
    text = inside_docs("[a](../nothing/here.py) [b](blocks.md#x) [`c`](../README.md)", "docs/page.md", warned.append)
    assert warned == ["docs/page.md: ../nothing/here.py leads nowhere"]
    assert text.endswith("[b](blocks.md#x) [`c`](index.md)")
    front = inside_docs("[a](docs/blocks.md) [core](packages/core)", "README.md", warned.append)
    assert front == "[a](blocks.md) core (`packages/core`)"


def test_no_page_is_left_out_of_the_navigation():
    pages = ["index.md", "layouts.md", "something-new.md", "reference/options.md", "reference/mixers/mlp.md"]

    def told(nav):
        for part in nav:
            yield from [part] if isinstance(part, str) else told(next(iter(part.values())))

    assert sorted(told(navigation(pages))) == sorted(pages)


def test_the_reference_names_every_option_that_composes(capsys):
    page = option_page()
    for command in ("experiment=quickstart", "task=phonebook"):
        assert main(["train", command, "--cfg", "job"]) == 0
        composed = OmegaConf.create(capsys.readouterr().out)
        for group, values in composed.items():
            names = [group] if not OmegaConf.is_dict(values) else [f"{group}.{name}" for name in values]
            assert [name for name in names if f"| `{name}` |" not in page] == []
    assert "### trainer.batch_ramp" in page and "### model.blocks" in page


def test_every_command_is_in_the_reference():
    assert re.findall(r"^## eyas (\S+)$", command_page(), re.MULTILINE) == [*COMMANDS]


@pytest.mark.parametrize("kind", mixers())
def test_a_mixers_page_has_all_of_its_options(kind):
    page, config = mixer_pages()[f"mixers/{kind}.md"], mixers()[kind].mixer.Config
    assert [option.name for option in options(config) if f"\n| `{option.name}` |" not in page] == []
    assert "## What it supports" in page and "## Closed forms" in page


def test_pages_of_mixers_name_options_that_exist():
    known = option_page()
    named = {
        name for page in mixer_pages().values() for name in re.findall(r"`((?:data|layout|trainer)\.[^`]+)`", page)
    }
    assert {name.partition("=")[0] for name in named} >= {"data.documents", "layout.context"}
    for name, _, value in (option.partition("=") for option in named):
        assert re.search(rf"^\| `{name}` \|[^|]*{value}", known, re.MULTILINE), name


def test_an_options_row_tells_type_default_and_text():
    rows = table(TrainerConfig, "trainer").splitlines()
    assert "| `trainer.global_batch` | integer | `16` | Sequences in a step, over all replicas. |" in rows
    assert any(row.startswith("| `trainer.precision` | `float32`, `float64`, `bfloat16` | `float32` |") for row in rows)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_as_they_are_drawn(name):
    drawn = PICTURES[name]().svg()
    assert (ROOT / "docs" / "pictures" / f"{name}.svg").read_text() == drawn, "run docs/reference/layout_pictures.py"


@pytest.mark.parametrize(("stages", "microbatches"), [(4, 8), (2, 3), (3, 1)])
def test_the_drawn_schedule_waits_as_long_as_the_formula_says(stages, microbatches):
    times = one_forward_one_backward(stages, microbatches)
    end = max(begin + (FORWARD if kind == "F" else BACKWARD) for work in times for kind, _, begin in work)
    assert end == (microbatches + stages - 1) * (FORWARD + BACKWARD)
    assert all(len(work) == 2 * microbatches for work in times)
