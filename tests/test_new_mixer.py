"""`eyas new-mixer` writes a package that installs, passes its own tests and trains, and that is small."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import TINY, eyas, install, write_corpus
from page_mixer import write_page_mixer

from eyas.core.errors import ConfigError
from eyas.experiments.cli import main
from eyas.experiments.new_mixer import EXAMPLE, example_folder, new_mixer, spellings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the package of a new mixer."""
    folder = tmp_path_factory.mktemp("made")
    run = eyas("new-mixer", "short-memory", "--symbol", "Q", folder=folder)
    assert run.returncode == 0, run.stderr
    assert "short_memory/src/eyas_short_memory.py" in run.stdout
    return folder / "short_memory"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The package of docs/mixers.md."""
    folder = tmp_path_factory.mktemp("page") / "token_shift"
    write_page_mixer(folder)
    return folder


@pytest.fixture(scope="module")
def installed(made, page, tmp_path_factory):
    """A folder that both packages are installed into, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    install(made, target)
    install(page, target)
    return target


def test_new_mixer_and_that_of_the_page_pass_their_tests(made, page, installed):
    """On as many cases as our tests draw."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(made), str(page)]
    path = os.pathsep.join([str(installed), str(ROOT)])
    run = subprocess.run(command, cwd=installed, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.mark.slow
def test_new_mixer_is_listed_and_trains(installed, tmp_path):
    listed = eyas("layers", "--json", folder=tmp_path, PYTHONPATH=str(installed))
    layers = {layer["kind"]: layer for layer in json.loads(listed.stdout)}
    assert (layers["short_memory"]["symbol"], layers["short_memory"]["package"]) == ("Q", "eyas-short-memory")
    write_corpus(tmp_path)
    tiny = [override for override in TINY if not override.startswith("model.layers.ssm.")]
    swap = "layer@model.layers.ssm=short_memory"
    trained = eyas("train", swap, *tiny, folder=tmp_path, PYTHONPATH=str(installed))
    assert trained.returncode == 0, trained.stderr
    (metrics,) = tmp_path.glob("runs/run/*/metrics.json")
    assert json.loads(metrics.read_text())["steps"] == 2


def test_new_mixer_is_one_module_and_one_entry_point_line(made, installed):
    assert {path.name for path in installed.glob("*.py")} == {"eyas_short_memory.py", "eyas_token_shift.py"}
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"eyas.mixers": {"short_memory": "eyas_short_memory:ShortMemory"}}
    written = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert written == {
        "pyproject.toml", "README.md", "src/eyas_short_memory.py", "tests/test_short_memory.py"
    }  # fmt: skip


def test_nothing_of_the_old_name_is_left(made):
    for path in made.rglob("*"):
        said = f"{path.relative_to(made)} {path.read_text() if path.is_file() else ''}"
        assert not [spelling for spelling in spellings(EXAMPLE) if spelling in said]


@pytest.mark.parametrize("name", ["x", "rwkv7", "gated", "gated-gated_conv-2"])
def test_any_name_gives_a_module_that_reads(name, tmp_path):
    folder = new_mixer(name, None, tmp_path / "made")
    for path in folder.rglob("*.py"):
        ast.parse(path.read_text())
    (line,) = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["eyas.mixers"].items()
    kind, _, new_class = spellings(name.replace("-", "_"))
    assert line == (kind, f"eyas_{kind}:{new_class}")


def test_a_name_that_the_module_needs_is_refused(tmp_path):
    used = {node.id for node in ast.walk(ast.parse(module())) if isinstance(node, ast.Name)}
    classes = [name for name in used if name[0].isupper() and name.isalpha() and name not in spellings(EXAMPLE)]
    assert {"Mixer", "Tensor"} <= {*classes}
    for name in classes:
        written = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
        if spellings(written)[-1] == name:
            with pytest.raises(ConfigError, match=f"would call its class {name}, which is taken"):
                new_mixer(written, None, tmp_path / written)


def module():
    (path,) = example_folder().glob("src/*.py")
    return path.read_text()


def test_a_folder_that_exists_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short_memory").mkdir()
    assert main(["new-mixer", "short_memory"]) == 2
    assert "short_memory exists already" in capsys.readouterr().err
    assert not [*(tmp_path / "short_memory").iterdir()]
