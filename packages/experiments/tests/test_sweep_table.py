"""How a sweep is shown while it runs."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eyas.experiments.multirun import sweeper_defaults, what_varies
from eyas.experiments.sweep_table import BEFORE, Shown, SweepTable, last_row


def write(folder: Path, state: str, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{step},{4 - step / 10},{1000 + step}" for step in range(steps)]
    (folder / "metrics.csv").write_text("step,train/loss,tokens_per_second\n" + "\n".join(rows) + "\n" * bool(rows))
    (folder / "status.new").write_text(json.dumps({"state": state, "error": ""}))
    (folder / "status.new").replace(folder / "status.json")


def test_the_last_whole_row_is_read(tmp_path: Path) -> None:
    write(tmp_path, "running", 3)
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("3,3.")
    assert last_row(tmp_path / "metrics.csv") == {"step": "2", "train/loss": "3.8", "tokens_per_second": "1002"}
    write(tmp_path, "running", 0)
    assert last_row(tmp_path / "metrics.csv") == {}
    assert last_row(tmp_path / "nowhere.csv") == {}


def test_lines_tell_of_changes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "0", "failed", 1)  # by an earlier sweep
    shown = [Shown(0, "seed=1", tmp_path / "0", 5), Shown(1, "seed=2", tmp_path / "1", 5, BEFORE)]
    with SweepTable(shown) as table:
        table._show()
        write(tmp_path / "0", "running", 2)
        table._show()
        table._show()
        write(tmp_path / "0", "finished", 5)
    assert capsys.readouterr().out.splitlines() == [
        "job 0  seed=1  step 2/5  loss 3.900  1,001 tokens/s  running",
        "job 0  seed=1  step 5/5  loss 3.600  1,004 tokens/s  finished",
    ]


def test_a_table_that_is_too_long_keeps_what_is_at_work(tmp_path: Path) -> None:
    states = ["finished"] * 30 + ["running", "failed"] + ["waiting"] * 30
    shown = [Shown(number, f"seed={number}", tmp_path / str(number), 5, state) for number, state in enumerate(states)]
    written = StringIO()
    Console(file=written, width=80).print(SweepTable(shown).table(lines=4))
    printed = written.getvalue()
    assert all(f"seed={number} " in printed for number in (30, 31, 32, 33))
    assert "and 28 waiting, 30 finished" in printed


def test_what_varies_is_what_not_all_jobs_share() -> None:
    assert what_varies([["a=1", "seed=1"], ["a=1", "seed=2"]]) == ["seed=1", "seed=2"]
    assert what_varies([["a=1"]]) == ["a=1"]


def test_optuna_draws_the_same_trials_unless_it_is_told_otherwise() -> None:
    defaults = ["hydra.sweeper.max_failure_rate=1.0", "hydra.sweeper.sampler.seed=1"]
    assert sweeper_defaults(["seed=1,2"]) == []
    assert sweeper_defaults(["hydra/sweeper=optuna"]) == defaults
    assert sweeper_defaults(["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid"]) == defaults[:1]
    assert sweeper_defaults(["hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=7"]) == defaults[:1]
