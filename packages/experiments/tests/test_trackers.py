"""What metrics are sent to beside metrics.csv, and on what conditions."""

import time
from pathlib import Path

import pytest

from eyas.core.errors import ConfigError
from eyas.experiments import trackers
from eyas.experiments.trackers import asked_for, check_installed, label, read_ids


def test_one_tracker_or_a_list_is_asked_for() -> None:
    assert asked_for("tensorboard") == ("tensorboard",)
    assert asked_for(("wandb", "mlflow", "wandb")) == ("wandb", "mlflow")
    assert asked_for(()) == ()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown logger 'wandbb'; did you mean 'wandb'"):
        asked_for(("csv", "wandbb"))


def test_a_tracker_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    check_installed(("csv", "tensorboard"))
    with pytest.raises(
        ConfigError, match=r"logger=wandb needs the package wandb; pip install 'eyas-experiments\[wandb"
    ):
        check_installed(("tensorboard", "wandb"))


def test_a_folder_that_a_tracker_left_behind_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not trackers.installed("left_behind")


def test_a_run_is_called_what_tells_it_from_its_sweep_s_others(tmp_path: Path) -> None:
    assert label(tmp_path / "runs/sweep/2026-01-01/3", tmp_path / "runs", "sweep") == "2026-01-01/3"
    assert label(tmp_path / "elsewhere", tmp_path / "runs", "sweep") == "elsewhere"


STEPS = [{"train/loss": 2.0, "grad_norm": 1.0, "grad_norms/mlp": 0.5}, {"train/loss": 1.0, "grad_norm": 1.0}]


def logged(name: str, folder: Path, runs: Path, first: int) -> None:
    """Logs the steps from `first` on, as a worker of a run that was started or resumed."""
    (logger,) = trackers.loggers((name,), folder, experiment="sweep", runs=runs, config={"seed": 1}, first=True)
    for step, metrics in enumerate(STEPS[first:], first):
        logger.log_metrics(metrics, step)
    logger.finalize("success")


def test_tensorboard_drops_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, resumed_at in ((0, None), (2, 2)):
        (logger,) = trackers.loggers(
            ("tensorboard",), tmp_path, experiment="", runs=tmp_path, config={}, first=True, resumed_at=resumed_at
        )
        for step in range(first, 4):
            logger.log_metrics({"train/loss": float(first)}, step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 0), (1, 0), (2, 2), (3, 2)]


def test_mlflow_keeps_a_run_in_files_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "sweep" / "first"
    folder.mkdir(parents=True)
    logged("mlflow", folder, tmp_path, 0)
    logged("mlflow", folder, tmp_path, 1)
    there = client((tmp_path / "mlruns").as_uri())
    (run,) = there.search_runs([there.get_experiment_by_name("sweep").experiment_id])
    assert run.info.run_id == read_ids(folder)["mlflow"]
    assert (run.info.run_name, run.data.params) == ("first", {"seed": "1"})
    assert run.data.metrics == {"train/loss": 1.0, "grad_norm": 1.0, "grad_norms/mlp": 0.5}


@pytest.mark.slow
def test_wandb_works_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "sweep" / "first"
    folder.mkdir(parents=True)
    logged("wandb", folder, tmp_path, 0)
    import wandb

    wandb.finish()
    (file,) = folder.glob(f"wandb/offline-run-*/run-{read_ids(folder)['wandb']}.wandb")
    for _ in range(300):  # a process of wandb's writes it, on a busy machine after `finish` has returned
        if all(name in file.read_bytes() for name in (b"grad_norms/mlp", b"train/loss")):
            return
        time.sleep(0.1)
    pytest.fail(f"{file} holds {file.stat().st_size} bytes, and not what was logged")


def test_a_rank_that_does_not_log_makes_no_run(tmp_path: Path) -> None:
    assert trackers.loggers(("mlflow",), tmp_path, experiment="a", runs=tmp_path, config={}, first=False) == []


def test_weights_and_biases_without_a_key_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="^logger=wandb: No API key configured.*; WANDB_MODE=offline keeps"):
        trackers.wandb(tmp_path / "run", "experiment", tmp_path, {})
