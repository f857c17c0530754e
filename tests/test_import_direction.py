"""What may import what, read from the sources; and how long and how named a source file may be."""

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "parallel", "layers", "experiments")
"""Each imports only what stands to its left."""
SOURCES = sorted(ROOT.glob("packages/*/src/eyas/**/*.py"))
OTHERS = sorted(
    path for part in ("packages/*/tests", "tests", "benchmarks", "examples") for path in ROOT.glob(f"{part}/**/*.py")
)
MEGATRON_FILES = {"megatron.py", "mends.py", "indexed.py"}
"""Of eyas.parallel: the borrowed names, what is mended in them, and the token files, which need no mends."""
OPTIONAL = {
    "mamba_ssm": "ssd_mamba_ssm.py",
    "causal_conv1d": None,
    "transformer_engine": "grouped_transformer_engine.py",
    "wandb": "trackers.py",
    "optuna": "multirun.py",
    "joblib": "sweep_machine.py",
    "submitit": "sweep_machine.py",
}
"""Packages of extras such as `cuda` and `sweeps`, and the one file that wraps each."""
WORKERS_ONLY = {"lightning", "triton", "megatron"}
"""What a command line does not wait for."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools"}
MOST_LINES = 400
IMPORT_NAMES = {"pyyaml": "yaml", "hydra-core": "hydra", "megatron-core": "megatron"}


@functools.cache
def imports(path, *, module_level=False):
    """Full names that a file imports; with `module_level`, only those imported as the file itself is."""
    tree = ast.parse(path.read_text(), str(path))
    nodes = top_level(tree.body) if module_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports say the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def top_level(statements):
    """Statements that run when a module is imported; not what only a type checker reads."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from top_level(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody"):
                yield from top_level(getattr(statement, block, []))


def top(name):
    return name.partition(".")[0]


def package(path):
    return path.relative_to(ROOT / "packages").parts[0]


def test_the_tree_is_where_it_is_looked_for():
    assert {package(path) for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 60
    assert len(OTHERS) > 30


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_only_to_its_left(name):
    allowed = {f"eyas.{left}" for left in PACKAGES[: PACKAGES.index(name) + 1]}
    for path in SOURCES:
        if package(path) == name:
            ours = {".".join(other.split(".")[:2]) for other in imports(path) if top(other) == "eyas"}
            assert ours <= allowed, f"{path}: {name} must not import {ours - allowed}"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_only_what_it_declares(name):
    project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    for path in SOURCES:
        if package(path) == name:
            declared = import_names(project["dependencies"] + extras.get(path.parent.name, []))
            foreign = {top(other) for other in imports(path)} - sys.stdlib_module_names - {"eyas"} - OPTIONAL.keys()
            assert foreign <= declared, f"{path}: {foreign - declared} missing from packages/{name}/pyproject.toml"


def import_names(requirements):
    names = {re.match(r"[\w.-]+", line).group() for line in requirements}
    return {IMPORT_NAMES.get(name, name).replace("-", "_") for name in names}


def test_only_the_folder_of_an_extra_needs_it():
    kit = ROOT / "packages/layers/src/eyas/layers/testing"
    inside = {path for path in SOURCES if any(name.startswith("eyas.layers.testing") for name in imports(path))}
    assert inside and all(path.parent == kit for path in inside)


def test_only_the_parallel_package_imports_megatron():
    files = {path for path in SOURCES if any(top(name) == "megatron" for name in imports(path))}
    assert files == {ROOT / "packages/parallel/src/eyas/parallel" / name for name in MEGATRON_FILES}


def test_no_other_package_reaches_megatron_through_the_parallel_one():
    for path in SOURCES:
        if package(path) != "parallel":
            assert not any(name.startswith("eyas.parallel.megatron") for name in imports(path)), path


def test_only_the_mixer_contract_brings_torch_to_core():
    files = {path.name for path in SOURCES if package(path) == "core" and any(top(n) == "torch" for n in imports(path))}
    assert files == {"mixer.py"}


@pytest.mark.parametrize("name", OPTIONAL)
def test_only_its_own_file_names_an_optional_package(name):
    for path in SOURCES:
        assert name not in {top(other) for other in imports(path, module_level=True)}, f"{path} needs {name}"
        if path.name != OPTIONAL[name]:
            assert name not in {top(other) for other in imports(path)}, f"{path} wraps {name}, as {OPTIONAL[name]} does"


def test_the_command_line_reaches_no_heavy_import():
    modules = {
        ".".join(path.relative_to(ROOT / "packages" / package(path) / "src").with_suffix("").parts): path
        for path in SOURCES
    }
    waiting, reached = ["eyas.experiments.train", "eyas.experiments.cli"], {}
    while waiting:
        module = waiting.pop()
        names = imports(modules[module], module_level=True) | {f"{module.rpartition('.')[0]}.__init__"}
        heavy = {top(name) for name in names} & WORKERS_ONLY
        assert not heavy, f"{modules[module]} imports {heavy}; import it in a function"
        reached[module] = names
        parents = {name.rpartition(".")[0] for name in names}
        waiting += [name for name in (names | parents) & modules.keys() if name not in reached and name not in waiting]
    assert len(reached) > 15


@pytest.mark.parametrize("path", [*SOURCES, *OTHERS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_and_its_name_says_its_job(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
    assert not {*path.relative_to(ROOT).with_suffix("").parts} & VAGUE
