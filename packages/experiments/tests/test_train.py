"""What the ranks of one torchrun job do before the workers start."""

import pytest
import torch

from eyas.experiments import train, workers
from eyas.experiments.cli import main


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes this process the second of two ranks; the modules that it runs as workers are noted and not run."""
    modules: list[str] = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train, "follow", lambda module, _: modules.append(module))
    return modules


def test_a_misspelt_option_of_an_experiment_of_ones_own_is_answered_by_what_it_has(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "recall.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: mqar\n  - _self_\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["train", "experiment=recall", "task.pairz=4"]) == 2
    assert "task.pairz: unknown option 'pairz'; did you mean 'pairs'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--dry-run"], ["--cfg", "job"], ["-m", "seed=1,2"]])
def test_a_rank_does_not_wait_for_a_run_that_will_not_come(followed: list[str], flags: list[str]) -> None:
    assert main(["train", *flags]) == 0
    assert followed == []


def test_a_rank_follows_the_first_one(followed: list[str]) -> None:
    assert main(["train", "layout.tensor=2"]) == 0
    assert followed == [train.WORKER]


def test_float64_is_refused_where_there_is_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["train", "task=copying", "data=task", "sample=none", "trainer.precision=float64"]) == 2
    assert "trainer.precision=float64 is for CPUs" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ("step-00000002", "eyas resume {} goes on behind step 2"),
        ("step-2.unfinished", "{} has no checkpoint yet"),
    ],
)
def test_an_interrupted_run_says_how_it_goes_on(tmp_path, monkeypatch, capsys, checkpoint, said):
    def interrupted(folder, *_, **__):
        (folder / "checkpoints" / checkpoint).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "launch", interrupted)
    assert main(["train", "task=copying", "data=task", "sample=none"]) == 130
    (folder,) = (tmp_path / "runs" / "run").iterdir()
    assert capsys.readouterr().err.startswith("eyas: interrupted: " + said.format(folder.relative_to(tmp_path)))
