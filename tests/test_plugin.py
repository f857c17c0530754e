"""A mixer in a package of its own joins by being installed: one file and one entry-point line."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import TINY, eyas, install, write_corpus

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "gated_conv"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the example is installed into, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    install(EXAMPLE, target)
    return target


def test_installed_mixer_is_listed(installed):
    listed = eyas("layers", "--json", folder=installed, PYTHONPATH=str(installed))
    layers = {layer["kind"]: layer for layer in json.loads(listed.stdout)}
    assert layers["gated_conv"]["package"] == "eyas-gated-conv"
    assert layers["gated_conv"]["options"] == {"channels": None, "kernel_size": 4}


def test_installed_mixer_trains_in_a_pattern_by_one_override(installed, tmp_path):
    write_corpus(tmp_path)
    swap, pattern = "layer@model.layers.ssm=gated_conv", "model.pattern=[ssm,attn,ffn]"
    tiny = [override for override in TINY if not override.startswith("model.layers.ssm.")]
    trained = eyas("train", swap, pattern, *tiny, folder=tmp_path, PYTHONPATH=str(installed))
    assert trained.returncode == 0, trained.stderr
    (metrics,) = tmp_path.glob("runs/run/*/metrics.json")
    assert json.loads(metrics.read_text())["steps"] == 2


def test_example_passes_its_own_tests(installed):
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE)]
    run = subprocess.run(
        tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_a_mixer_costs_one_file_and_one_entry_point_line(installed):
    assert [path.name for path in installed.glob("*.py")] == ["eyas_gated_conv.py"]
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"eyas.mixers": {"gated_conv": "eyas_gated_conv:GatedConv"}}
    ours = [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("conf/**/*.yaml")]
    assert len(ours) > 50
    assert [path.name for path in ours if "gated_conv" in path.read_text()] == ["new_mixer.py"]
