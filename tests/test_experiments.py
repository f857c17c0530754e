"""Every experiment composes, and its first two steps run; a sweep that it states runs without further words."""

import csv
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from eyas.core.errors import CheckpointError, ConfigError
from eyas.core.ratios import pattern_from_ratios
from eyas.core.schema import dump
from eyas.experiments import run_folder, train
from eyas.experiments.cli import main
from eyas.experiments.compose import compose
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.derived import with_derived
from eyas.experiments.run_config import load_run
from eyas.parallel.pool import pool

EXPERIMENTS = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
SHORT = (
    "trainer.max_steps=2", "trainer.global_batch=2", "trainer.microbatch=2", "schedule.warmup_steps=1",
    "trainer.validation_interval=null", "trainer.checkpoint_interval=null", "data.validation_sequences=2",
)  # fmt: skip


def trained_here(folder):
    """A rank of a run, in a worker of the pool."""
    from eyas.experiments.worker import train as train_rank

    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "GROUP_RANK": "0"}
    with patch.dict(os.environ, rank):
        train_rank(folder, load_run(run_folder.read_config(folder / run_folder.CONFIG)), resume=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, where workers come out of the pool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        train, "launch", lambda folder, module, arguments, processes: pool(1).run(trained_here, folder.absolute())
    )
    return tmp_path


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_two_steps_of_every_experiment_run(experiment, place):
    text = Path(__file__).parent / "*.py"
    here = [f"data=files", f"data.files='{text}'", "data.cache=cache", "data.vocab_size=300", "sample=none"]
    small = here if experiment == "quickstart" else []
    assert main(["train", f"experiment={experiment}", "name=short", *SHORT, *small]) == 0
    (folder,) = (place / "runs" / "short").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 2
