"""What a branch must have in common with the run that it goes on from."""

from pathlib import Path
from typing import Any

import pytest

from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.experiments import run_folder
from eyas.experiments.branch_from import check_tokens, decided, with_branch
from eyas.experiments.prepare import prepare
from eyas.experiments.run_config import load_run
from eyas.parallel import checkpoint_folder

MODEL = {"hidden_size": 8, "vocab_size": 262, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}}


def test_weights_alone_are_no_run_to_go_on_with(tmp_path: Path) -> None:
    folder = run_folder.claim(tmp_path / "mean", {"trainer": {}})
    checkpoint_folder.at_step(folder / run_folder.CHECKPOINTS, 0).mkdir(parents=True)
    config = {"branch_from": f"{folder}@0", "trainer": {"max_steps": 5}, "schedule": {}}
    with pytest.raises(CheckpointError, match=r"mean holds weights alone.*; use start_from=.*mean$"):
        with_branch(config)


def test_a_text_that_has_changed_is_refused(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("the eyas reads and writes what the falcon reads "[number:] * 30)
    config: dict[str, Any] = {
        "model": MODEL,
        "data": {
            "files": f"{tmp_path}/*.txt", "vocab_size": 262, "sequence_length": 16, "cache": str(tmp_path / "cache"),
        },
    }  # fmt: skip
    run = load_run(config)
    folder = run_folder.claim(tmp_path / "run", config)
    run_folder.write_data(folder, run, prepare(run.data))
    check_tokens(f"{folder}@3", prepare(run.data))
    (tmp_path / "0.txt").write_text("falcons hunt " * 100)
    with pytest.raises(DataError, match=r"run@3: the text has changed since that run; bring back"):
        check_tokens(f"{folder}@3", prepare(run.data))


def test_a_branch_has_no_more_steps_to_trace_than_it_trains() -> None:
    traced = {
        "model": MODEL,
        "data": {"vocab_size": 262},
        "trainer": {"max_steps": 10},
        "profile": {"kind": "torch", "start": 3, "steps": 2},
    }
    load_run({**traced, "branch_from": "runs/stable@5"})
    with pytest.raises(ConfigError, match="are 5 steps, but 4 are to be trained"):
        load_run({**traced, "branch_from": "runs/stable@6"})


def test_a_branch_of_a_run_that_started_from_another_may_begin_when_that_one_has_gone_on() -> None:
    begun, here = ({"trainer": {}, "start_from": f"/runs/dense@{step}"} for step in (500, 600))
    assert decided(begun) == decided(here) != decided({"trainer": {}, "start_from": "/runs/other@500"})
