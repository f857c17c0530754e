"""Help comes at once, and lists can be read by programs."""

import json
import os
import subprocess
import sys

import pytest

from eyas.experiments.cli import main

LIMIT_SECONDS = 0.5
"""Of processor time, which other programs on the machine do not stretch."""
TABLE_LIMIT = 1.5
"""Processor time of the table of all models, over that of importing torch, most of it: 2 s where torch takes 1.3 s."""
HEAVY = {"torch", "hydra", "omegaconf", "megatron", "lightning", "numpy"}
HELP = """
import json, sys
from eyas.experiments.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""
TABLE = """
import gc, sys
from eyas.experiments.cli import main
main(["models"])
import torch
print(sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_comes_at_once_and_imports_nothing_heavy(arguments):
    runs = [timed(HELP, *arguments) for _ in range(3)]
    run, _ = runs[0]
    code, modules = json.loads(run.stderr)
    assert code == 0
    assert run.stdout.startswith("usage: eyas")
    assert not HEAVY & {module.partition(".")[0] for module in modules}
    assert min(seconds for _, seconds in runs) < LIMIT_SECONDS


def test_the_table_of_all_models_comes_soon_and_allocates_no_weights():
    runs, imports = zip(*((timed(TABLE), timed("import torch")) for _ in range(3)), strict=True)
    run, _ = runs[0]
    assert "deepseek_v3" in run.stdout
    assert int(run.stderr) == 0
    assert min(seconds for _, seconds in runs) < TABLE_LIMIT * min(seconds for _, seconds in imports)


def timed(program, *arguments):
    """A finished Python program, and the processor seconds that it took."""
    before = os.times()
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    after = os.times()
    return run, after.children_user + after.children_system - before.children_user - before.children_system


def test_layers_as_json(capsys):
    assert main(["layers", "--json"]) == 0
    layers = {layer.pop("kind"): layer for layer in json.loads(capsys.readouterr().out)}
    assert {"attention", "mamba2", "mlp"} <= layers.keys()
    assert all(layer.keys() == {"symbol", "package", "summary", "options"} for layer in layers.values())
    assert (layers["mamba2"]["symbol"], layers["mamba2"]["package"]) == ("M", "eyas-layers")
    assert layers["mamba2"]["options"]["num_groups"] == 1


def test_models_as_json(capsys):
    assert main(["models", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert {"falcon_h1_0.5b", "falcon_h1_34b", "falcon_h1_tiny"} <= models.keys()
    for model in models.values():
        assert model["parameters"] > 0
        assert model["training_flops_per_token"].keys() == {"exact", "megatron"}
        assert {"pattern", "state_bytes", "hidden_size", "vocab_size", "layers"} <= model.keys()
        assert 0 < model["active_parameters"] <= model["parameters"]
        assert all("kind" in layer for layer in model["layers"].values())
    assert models["mamba2_2.7b"]["kv_bytes"] == 0 < models["mamba2_2.7b"]["state_bytes"]
    assert models["llama3_8b"]["state_bytes"] == 0
    assert models["llama3_8b"]["kv_bytes"] == 2 * 4096 * 32 * 8 * 128 * 2


def test_models_at_another_length(capsys):
    assert main(["models", "--json", "--sequence-length", "8"]) == 0
    (llama,) = (model for model in json.loads(capsys.readouterr().out) if model["name"] == "llama3_8b")
    assert llama["kv_bytes"] == 2 * 8 * 32 * 8 * 128 * 2
    assert main(["models", "--sequence-length", "0"]) == 2
    assert capsys.readouterr().err.startswith("eyas: --sequence-length=0 must be at least 1")


def test_models_as_a_table(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert "deepseek_v3" in table
    assert "671,026.4 M" in table
