"""Which weights a run starts from."""

from pathlib import Path
from typing import Any

import pytest

from eyas.core.errors import CheckpointError
from eyas.experiments import run_folder
from eyas.experiments.compose import Job
from eyas.experiments.named_step import run_of
from eyas.experiments.origin import Origin
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
    assert (run_folder.named_checkpoint(named).name, start(begun)) == ("step-00000004", f"{begun}@6")


def test_a_step_that_is_not_there_is_refused(begun: Path) -> None:
    with pytest.raises(CheckpointError, match=r"dense has no checkpoint of step 3 to start from; it has 2, 4$"):
        start(f"{begun}@3")
    named = start(begun)
    checkpoint_folder.delete(checkpoint_folder.at_step(begun / run_folder.CHECKPOINTS, 4))
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 4 to go on from; it has 2$"):
        run_folder.named_checkpoint(named)
