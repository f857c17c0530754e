"""Which weights a run starts from."""

from pathlib import Path
from typing import Any

import pytest

from eyas.core.errors import CheckpointError, ConfigError
from eyas.experiments import run_folder
from eyas.experiments.compose import Job
from eyas.experiments.named_step import run_of, split_step
from eyas.experiments.origin import Origin
from eyas.experiments.run_config import load_run
from eyas.experiments.start_from import with_start
from eyas.parallel import checkpoint_folder

CONFIG: dict[str, Any] = {
    "model": {"hidden_size": 8, "vocab_size": 16, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}},
    "data": {"source": "task", "vocab_size": 16, "sequence_length": 16},
    "task": {"kind": "induction", "sequence_length": 16},
}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run with checkpoints of two steps, in a folder whose name has the sign in it."""
    folder = run_folder.claim(tmp_path / "me@lab" / "dense", CONFIG)
    for step in (2, 4):
        checkpoint_folder.at_step(folder / run_folder.CHECKPOINTS, step).mkdir(parents=True)
    return folder


def start(given: object) -> str:
    job = Job({**CONFIG, "start_from": str(given)}, Origin(), Path("run"), None)
    named: str = with_start(job)["start_from"]
    return named


def test_a_run_says_which_step_it_starts_from(begun: Path) -> None:
    assert start(begun) == f"{begun}@4"
    assert start(f"{begun}@2") == start(start(f"{begun}@2")) == f"{begun}@2"
    assert run_of(start(begun)) == begun
    assert run_folder.named_checkpoint(start(begun)).name == "step-00000004"
    named = start(begun)
    checkpoint_folder.at_step(begun / run_folder.CHECKPOINTS, 6).mkdir()
    assert (named, start(begun)) == (f"{begun}@4", f"{begun}@6")


def test_a_step_that_is_not_there_is_refused(begun: Path) -> None:
    with pytest.raises(CheckpointError, match=r"dense has no checkpoint of step 3 to start from; it has 2, 4$"):
        start(f"{begun}@3")
    named = start(begun)
    checkpoint_folder.delete(checkpoint_folder.at_step(begun / run_folder.CHECKPOINTS, 4))
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 4 to go on from; it has 2$"):
        run_folder.named_checkpoint(named)


def test_what_stands_behind_the_sign_is_a_step_or_a_folder_s_name(begun: Path) -> None:
    assert split_step(str(begun), "start_from") == (str(begun), None)
    with pytest.raises(ConfigError, match="branch_from=runs/x@last names no step behind the @; write a number"):
        split_step("runs/x@last", "branch_from")


def test_a_branch_has_no_more_steps_to_trace_than_it_trains() -> None:
    traced = {**CONFIG, "trainer": {"max_steps": 10}, "profile": {"kind": "torch", "start": 3, "steps": 2}}
    load_run({**traced, "branch_from": "runs/stable@5"})
    with pytest.raises(ConfigError, match="are 5 steps, but 4 are to be trained"):
        load_run({**traced, "branch_from": "runs/stable@6"})
