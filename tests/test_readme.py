"""What the README and the other pages say can be done, can be done."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from command import install
from forked_workers import Forks
from page_commands import DRAWN, NOT_RUN, Reader, lines, spans, why_not_run
from page_mixer import blocks, write_page_mixer

from eyas.core.registry import mixers
from eyas.experiments.cli import main
from eyas.experiments.command_line import build_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for part in ("README.md", "docs/**/*.md", "packages/*/*.md", "examples/*/*.md") for path in ROOT.glob(part)
)
README = (ROOT / "README.md").read_text()
slow = pytest.mark.slow


def commands(path):
    """The lines of a page that begin with a command of ours."""
    return [line for line in lines(path) if line.startswith("eyas ")]


def cases(find):
    """A test case for each thing that `find` finds in a page."""
    named = [(f"{path.relative_to(ROOT)}: {index}", thing) for path in PAGES for index, thing in enumerate(find(path))]
    return pytest.mark.parametrize("thing", [thing for _, thing in named], ids=[name for name, _ in named])


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The mixers that pages speak of as `pip install` leaves them, on the path."""
    folder, written = tmp_path_factory.mktemp("plugins"), tmp_path_factory.mktemp("written") / "token_shift"
    write_page_mixer(written)
    for package in (ROOT / "examples" / "gated_conv", written):
        install(package, folder)
    sys.path.append(str(folder))
    mixers.cache_clear()
    yield
    sys.path.remove(str(folder))
    mixers.cache_clear()


@pytest.fixture(scope="module")
def forks():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        started = Forks()
        yield started
        started.close()


@pytest.fixture
def reader(plugins, tmp_path, monkeypatch):
    """Runs the commands of a page in a folder of its own, with or without training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    return lambda *, training: Reader(tmp_path, main, training=training)


READ = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_accepted(path, reader):
    accept(commands(path), path, reader)


def sweeps(path):
    """Whether sentences of a page speak of sweeps, which take their time to compose."""
    return any(" -m " in line for line in spans(path))


@pytest.mark.parametrize(
    "path",
    [pytest.param(page, marks=slow) if sweeps(page) else page for page in PAGES if spans(page)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_commands_within_sentences_are_accepted(path, reader):
    accept(spans(path), path, reader)


def accept(found, path, reader):
    """Parses commands of a page, and composes, checks and costs those that train."""
    typed = reader(training=False)
    typed.prepare(path)
    for line in found:
        words = [word for word in shlex.split(line, comments=True)[1:] if word != "--help"]
        _, unknown = build_parser().parse_known_args(words)
        assert not [word for word in unknown if word.startswith("-") or not line.startswith("eyas train")], line
        if not why_not_run(line):
            typed.run(line)
    assert not (typed.folder / "runs").exists()


@slow
@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_do_what_the_page_says(path, reader, forks, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("eyas.experiments.workers.launch", forks.launch)
    typed = reader(training=True)
    typed.prepare(path)
    for line in setting(path) + commands(path):
        if not why_not_run(line):
            typed.run(line)


MADE = {
    "quickstart": "eyas train experiment=quickstart",
    "sweep": "eyas train -m name=sweep seed=1,2",
    "other": "eyas train name=other",
}
"""What makes the runs that pages take for granted."""


def setting(path):
    """What a page takes for granted: runs that it speaks of and does not train."""
    text = "\n".join(commands(path))
    needed = [name for name in MADE if f"runs/{name}" in text]
    return [MADE[name] for name in needed if not re.search(rf"eyas train .*(name|experiment)={name}\b", text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_line_of_a_shell_block_is_run_or_has_a_reason(path):
    assert [line for line in lines(path) if not line.startswith(("eyas ", "$ ")) and not why_not_run(line)] == []


def test_every_reason_and_every_exception_is_for_a_line_of_a_page():
    told = [line for path in PAGES for line in lines(path)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in told)] == []
    assert [name for name in DRAWN if not any(f"experiment={name}" in line for line in told)] == []


@cases(lambda path: blocks(path, "python"))
def test_python_prints_what_its_comments_say(thing, monkeypatch):
    said = re.findall(r"^print\(.*\)  # (.*)$", thing, re.MULTILINE)
    printed, page = io.StringIO(), ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    with contextlib.redirect_stdout(printed):
        exec(compile(thing, "<page>", "exec"), vars(page))
    assert printed.getvalue().splitlines() == said


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_sessions_exist():
    known = set(re.findall(r"@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text()))
    told = {name for path in PAGES for name in re.findall(r"nox -s (\w+)", path.read_text())}
    assert {"quickstart", "tests", "proofs", "lint", "bench", "wheels", "gpu"} <= known
    assert told <= known


def test_continuous_integration_runs_the_command_that_tests():
    (command,) = re.findall(r"^(python3 -m pip install nox && python3 -m nox -s tests)$", README, re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    assert all(step in script for step in command.split(" && "))
