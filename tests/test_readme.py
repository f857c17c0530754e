"""What the README and the other pages say can be done, can be done."""

import contextlib
import io
import json
import re
import shlex
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pyarrow
import pytest
from command import install
from page_mixer import blocks, write_page_mixer
from pyarrow import parquet

from eyas.core.registry import mixers
from eyas.experiments.cli import build_parser, main
from eyas.parallel.indexed import TokenWriter

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for part in ("README.md", "docs/**/*.md", "packages/*/*.md", "examples/*/*.md") for path in ROOT.glob(part)
)
README = (ROOT / "README.md").read_text()
RUN = ("layers", "models")
"""Commands that are run as they stand; training is composed, checked and costed; of the others the options are read."""


def commands(path):
    """The `eyas` commands in a page's blocks, as words."""
    lines = (line for text in blocks(path, "bash", "") for line in text.replace("\\\n", " ").splitlines())
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True))[:1] == ["eyas"]]


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
def read(tmp_path_factory):
    """A folder with the files that pages read, a few hundred thousand bytes of each."""
    folder = tmp_path_factory.mktemp("read")
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda path: path.stat().st_size)[-12:]
    texts = [path.read_text() for path in sources]
    rows = [{"body": text, "text": text} for text in texts]
    for name in ("texts", "tables", "saved/train", "tokens"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number}.txt").write_text(text)
    (folder / "rows.txt").write_text("---".join(texts))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "tables" / "0.parquet")
    with pyarrow.ipc.new_stream(folder / "saved" / "train" / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "saved" / "train" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "saved" / "train" / "dataset_info.json").write_text("{}")
    with TokenWriter(folder / "tokens" / "all", 1000) as writer:
        for text in texts:
            writer.add_document(list(text.encode()))
    return folder


@cases(commands)
def test_commands_are_accepted(thing, plugins, read, monkeypatch, capsys):
    monkeypatch.chdir(read)
    monkeypatch.setenv("EYAS_CACHE", str(read / "cache"))
    if "--help" in thing:
        with pytest.raises(SystemExit) as end:
            main(thing)
        assert end.value.code == 0
    elif thing[0] in RUN:
        assert main(thing) == 0
    elif thing[0] == "train":
        costed = [] if {"--dry-run", "--cfg"} & {*thing} else ["--dry-run"]
        assert main([*thing, *costed]) == 0
    else:
        _, unknown = build_parser().parse_known_args(thing)
        assert not unknown
    assert not (read / "runs").exists()
    assert "Error" not in capsys.readouterr().err


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
