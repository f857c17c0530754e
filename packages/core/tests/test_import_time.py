"""eyas.core imports fast and light: help and errors wait for it."""

import json
import pkgutil
import subprocess
import sys

import eyas.core

LIMIT_SECONDS = 0.5
HEAVY = ("torch", "megatron", "lightning", "numpy", "triton", "hydra")
MEASURE = """
import importlib, json, sys, time
start = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def test_every_module_but_the_mixer_imports_fast_and_without_torch():
    names = ["eyas.core", *(f"eyas.core.{module.name}" for module in pkgutil.iter_modules(eyas.core.__path__))]
    names.remove("eyas.core.mixer")
    assert "eyas.core.pattern" in names
    runs = [subprocess.run([sys.executable, "-c", MEASURE, *names], capture_output=True, check=True) for _ in range(2)]
    measured = [json.loads(run.stdout) for run in runs]
    loaded = {module.partition(".")[0] for module in measured[0][1]}
    assert not loaded & set(HEAVY)
    assert min(seconds for seconds, _ in measured) < LIMIT_SECONDS
