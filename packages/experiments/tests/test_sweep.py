"""What a multirun does, and what it leaves alone, with runs that take no time."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn

from eyas.core.errors import WorkerError
from eyas.experiments import resume, run_folder, sweep_job
from eyas.experiments.cli import main
from eyas.experiments.compose import Job
from eyas.experiments.origin import Origin
from eyas.experiments.run_records import find_runs
from eyas.experiments.sweep import Returned
from eyas.experiments.sweep_launch import launch
from eyas.experiments.sweep_plan import Planned

SMALL = (
    "task=mqar", "task.vocab_size=32", "task.sequence_length=16", "task.pairs=2", "task.eval_lengths=[]",
    "model=mamba2_attention_tiny", "trainer.global_batch=4", "schedule.warmup_steps=2", "name=s",
)  # fmt: skip


class Runs:
    """Stands for the workers: notes what is run, and ends as it is told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.failing: set[int] = set()
        self.killed: set[int] = set()

    def start(self, folder: Path, run: Any, config: Path, *flags: str, on_terminal: bool = True) -> None:
        assert not on_terminal
        self.started.append(folder.name + " resumed" * ("--resume" in flags))
        if run.seed in self.killed:
            raise KeyboardInterrupt
        if run.seed in self.failing:
            run_folder.write_status(folder, "failed", "out of luck")
            raise WorkerError("out of luck")
        rate = run.optimizer.learning_rate
        run_folder.write_metrics(folder, {"validation_loss": run.seed + (rate - 0.003) ** 2, "accuracy": 0.5})
        run_folder.write_status(folder, "finished")

    def take(self) -> list[str]:
        """What was started since this was asked last."""
        started, self.started = self.started, []
        return started


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_job, "start", fake.start)
    monkeypatch.setattr(resume, "start", fake.start)
    return fake


def sweep(*overrides: str) -> int:
    return main(["train", "-m", *SMALL, *overrides])


def folder_of(number: int) -> Path:
    (folder,) = Path("runs/s").glob(f"*/{number}")
    return folder


def test_what_is_finished_is_not_run_again(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("seed=1,2") == 0
    assert runs.take() == ["0", "1"]
    capsys.readouterr()
    assert sweep("seed=1,2") == 0
    assert runs.take() == []
    said = capsys.readouterr()
    assert "2 jobs, 1 at once; 2 finished before" in said.out
    assert "Nothing is missing" in said.out
    assert said.err == ""


def test_a_failed_job_is_recorded_the_sweep_goes_on_and_it_is_tried_again(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failing = {1, 3}
    assert sweep("seed=1,2,3") == 1
    assert runs.take() == ["0", "1", "2"]
    said = capsys.readouterr()
    assert "eyas: job 0 (seed=1): out of luck" in said.err
    assert "eyas: 2 of 3 jobs failed (0, 2); eyas results runs/s/" in said.err
    assert [run.remark for run in find_runs(Path("runs"))] == ["FAILED: out of luck", "", "FAILED: out of luck"]
    runs.failing = {3}
    assert sweep("seed=1,2,3") == 1
    assert runs.take() == ["0", "2"]
    assert [run.remark for run in find_runs(Path("runs"))] == ["", "", "FAILED: out of luck"]


@pytest.mark.parametrize("batches", [[], ["hydra.sweeper.max_batch_size=1"]])
def test_a_sweep_whose_folders_are_named_after_the_seed_tells_them_all(
    runs: Runs, capsys: pytest.CaptureFixture[str], batches: list[str]
) -> None:
    runs.failing = {1}
    assert sweep("name=of_${seed}", "seed=1,2", *batches) == 1
    said, (one, two) = capsys.readouterr(), sorted(Path("runs").glob("of_*/*"))
    assert f"Sweep folder: {one}\nSweep folder: {two}\n" in said.out
    assert f"eyas results {one} {two} shows them beside the others" in said.err


def test_an_interrupted_job_goes_on_from_its_checkpoint_and_the_rest_follows(runs: Runs) -> None:
    runs.killed = {2}
    assert sweep("seed=1,2,3") == 130
    assert runs.take() == ["0", "1"]
    (folder_of(1) / "checkpoints" / "step-00000005").mkdir(parents=True)
    runs.killed = set()
    assert sweep("seed=1,2,3") == 0
    assert runs.take() == ["1 resumed", "2"]
    assert sweep("seed=1,2,3") == 0
    assert runs.take() == [], "what went on is known as the job that it was"


def test_without_a_checkpoint_it_begins_anew_in_its_folder(runs: Runs) -> None:
    runs.killed = {1}
    assert sweep("seed=1") == 130
    (folder_of(0) / "metrics.csv").write_text("step,train/loss\n0,5.0\n")
    runs.killed = set()
    assert sweep("seed=1") == 0
    assert runs.take() == ["0", "0"]
    assert not (folder_of(0) / "metrics.csv").exists()


def test_another_configuration_has_another_folder(runs: Runs) -> None:
    sweep("seed=1,2")
    before = (folder_of(1) / "config.yaml").read_bytes()
    assert sweep("seed=1,3,2") == 0
    assert runs.take() == ["0", "1", "2"]
    assert (folder_of(1) / "config.yaml").read_bytes() == before
    assert yaml.safe_load((folder_of(2) / "config.yaml").read_text())["seed"] == 3
    sweep("seed=1,2", "trainer.max_steps=7")
    assert len(list(Path("runs/s").iterdir())) == 2, "a sweep that has no job in common has a folder of its own"


def test_what_cannot_be_composed_refuses_all_and_names_the_job(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("layer@model.layers.ssm=mamba2,mamba7", "seed=1") == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: job 1 (layer@model.layers.ssm=mamba7): ")
    assert said.rstrip().endswith("no job was started")
    assert runs.take() == []
    assert not Path("runs").exists()


def test_what_cannot_be_run_fails_before_the_others_start(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("layout.tensor=1,3") == 2
    assert runs.take() == ["0"]
    assert "eyas: job 1 (layout.tensor=3): " in capsys.readouterr().err
    assert json.loads((folder_of(1) / "status.json").read_text())["state"] == "failed"


def test_a_job_that_another_process_trains_is_left_to_it(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.killed = {1}
    sweep("seed=1")
    runs.take()
    script = "import sys; from pathlib import Path; from eyas.experiments.hold import hold\n"
    script += "with hold(Path(sys.argv[1]), 'trained'): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(folder_of(0))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        capsys.readouterr()
        assert sweep("seed=1,2") == 2
        assert f"is being trained by process {other.pid} on" in capsys.readouterr().err
        other.communicate()
    assert runs.take() == []


def test_the_recorded_command_is_what_was_typed(runs: Runs) -> None:
    sweep("seed=1,2")
    recorded = json.loads((folder_of(1) / "environment.json").read_text())["command"]
    assert recorded == ["eyas", "train", "--multirun", *SMALL, "seed=1,2"]


def test_a_dry_run_starts_nothing_and_tells_what_would_fail(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dry-run", "-m", *SMALL, "layout.tensor=1,3"]) == 2
    assert not Path("runs").exists()
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert line.startswith("job 0: layout.tensor=1: ")
    assert "parameters" in line and "MFLOP per training token, " in line and "1 process of up to " in line
    assert "eyas: job 1 (layout.tensor=3): " in said.err
    assert said.err.endswith("eyas: 1 of 2 jobs failed (1)\n")


class Lossy:
    """A launcher that loses the process of its first job, once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append(len(job_overrides))
        jobs = vars(self)["task_function"].jobs
        if len(self.batches) == 1:
            run_folder.claim(jobs[0].folder, jobs[0].config)
            raise BrokenProcessPool("a worker died")
        return [Returned(None) for _ in jobs]


def test_a_job_whose_process_is_lost_has_failed_and_the_rest_is_launched_again(tmp_path: Path) -> None:
    job = Job({"seed": 1}, Origin(), tmp_path, 0)
    planned = [Planned(job, number, "", job.config, folder=tmp_path / str(number)) for number in (0, 1, 2)]
    launcher = Lossy()
    launch(planned, launcher, None)
    assert launcher.batches == [3, 2]
    assert [str(each.error or "") for each in planned] == ["the process of the job was lost (out of memory?)", "", ""]
    assert find_runs(tmp_path)[0].remark == "FAILED: the process of the job was lost (out of memory?)"


OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")


def test_optuna_searches_by_the_objective_and_finds_its_trials_again(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    space = "optimizer.learning_rate=tag(log,interval(0.0001,0.01))"
    assert sweep(*OPTUNA, space) == 0
    assert runs.take() == ["0", "1", "2"]
    found = find_runs(Path("runs"))
    best = yaml.safe_load(next(Path("runs").rglob("optimization_results.yaml")).read_text())
    assert best["best_value"] == min(run.metrics["validation_loss"] for run in found)
    said = capsys.readouterr()
    assert f"best_value={best['best_value']}" in said.out
    assert said.err == ""
    assert sweep(*OPTUNA, space) == 0
    assert runs.take() == []
    assert sweep(*OPTUNA, space, "objective=perplexity") == 2
    assert (
        "objective=perplexity is no metric of the run, which has accuracy, validation_loss" in capsys.readouterr().err
    )


def test_a_failed_trial_does_not_end_the_search(runs: Runs) -> None:
    pytest.importorskip("optuna")
    runs.failing = {1}
    assert sweep(*OPTUNA, "seed=choice(1,2,3)", "hydra.sweeper.n_trials=8") == 1
    assert {"FAILED: out of luck", ""} == {run.remark for run in find_runs(Path("runs"))}


@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_a_job_of_several_tasks_is_refused(runs: Runs, capsys: pytest.CaptureFixture[str], launcher: str) -> None:
    pytest.importorskip("submitit")
    assert sweep(f"hydra/launcher={launcher}", "hydra.launcher.tasks_per_node=2", "seed=1,2") == 2
    assert "hydra.launcher.tasks_per_node=2: a job of a sweep is one task" in capsys.readouterr().err
    assert runs.take() == []
    assert os.listdir() == []
