"""What a resumed run goes on with, and what it refuses before any process starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.core.errors import CheckpointError, ConfigError, DataError, EyasError
from eyas.experiments import resume as resuming
from eyas.experiments import run_folder
from eyas.experiments.hold import LOCK
from eyas.experiments.prepare import prepare
from eyas.experiments.prepared import PreparedText
from eyas.experiments.resume import resume
from eyas.experiments.run_config import load_run
from eyas.experiments.run_records import latest_config, read_run

CONFIG: dict[str, Any] = {
    "model": {"hidden_size": 8, "vocab_size": 262, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}},
    "trainer": {"max_steps": 10, "checkpoint_interval": 5},
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Eight documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text("the eyas reads and writes what the falcon reads "[number:] * 30)
    return folder


@pytest.fixture
def run(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended at step 5 of 10; resuming it starts no process."""
    monkeypatch.setattr(resuming, "start", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    data = {"files": "texts/*.txt", "vocab_size": 262, "sequence_length": 16, "cache": "cache"}
    folder = run_folder.claim(tmp_path / "run", {**CONFIG, "data": data})
    configured = load_run({**CONFIG, "data": data})
    run_folder.write_data(folder, configured, prepare(configured.data))
    (folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    return folder


def kept(folder: Path) -> dict[str, bytes]:
    """What a refused resume must leave as it is."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != LOCK}


def tokens_of(folder: Path) -> PreparedText:
    """The only text of a run."""
    (text,) = run_folder.read_data(folder).texts.values()
    return text


def refuse(folder: Path, error: type[EyasError], message: str, *overrides: str) -> None:
    before = kept(folder)
    with pytest.raises(error, match=message):
        resume(folder, overrides)
    assert kept(folder) == before


def test_a_resumed_run_traces_nothing_and_has_the_options_that_it_had(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    traced = config | {"profile": {"kind": "torch", "start": 3, "steps": 2}}
    (run / "config.yaml").write_text(yaml.safe_dump(traced))
    resume(run, [])
    assert run_folder.read_config(latest_config(run)) == traced | {"profile": {**traced["profile"], "kind": "none"}}


def test_a_resumed_run_keeps_its_tokens_when_the_text_has_changed(run: Path, text: Path) -> None:
    (text / "3.txt").write_text("other words " * 90)
    before = {name: kept(run)[name] for name in (run_folder.DATA, run_folder.TOKENIZER)}
    resume(run, [])
    assert {name: kept(run)[name] for name in before} == before


def test_a_resumed_run_finds_its_tokens_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(run, [])
    assert run_folder.read_data(run).vocab_size == 262


def test_tokens_that_are_gone_are_prepared_again(run: Path, tmp_path: Path) -> None:
    tokens = tokens_of(run).train_prefix.with_suffix(".bin").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    resume(run, [])
    assert tokens_of(run).train_prefix.with_suffix(".bin").read_bytes() == tokens


def test_tokens_that_are_gone_and_would_be_others_are_refused(run: Path, tmp_path: Path, text: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    (text / "3.txt").write_text("other words " * 90)
    refuse(run, DataError, "no longer gives the same ones; bring back")


def test_another_tokenizer_for_the_same_text_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    (run / run_folder.TOKENIZER).write_text("{}")
    refuse(run, DataError, "no longer gives the same ones; bring back")


def test_a_resume_goes_on_with_the_options_of_the_one_before(run: Path) -> None:
    resume(run, ["trainer.max_steps=20", "layout.tensor=2"])
    resume(run, ["trainer.keep_checkpoints=1"])
    last = load_run(yaml.safe_load((run / "resume-2.yaml").read_text()))
    assert (last.trainer.max_steps, last.trainer.keep_checkpoints, last.layout.tensor) == (20, 1, 2)
    assert read_run(run).config["trainer.max_steps"] == 20


def test_a_finished_run_is_not_finished_twice(run: Path) -> None:
    (run / "checkpoints" / "step-00000010").mkdir()
    run_folder.write_status(run, "finished")
    refuse(run, ConfigError, r"has 10 steps behind it and trainer.max_steps=10 leaves none.*such as trainer.max_steps=")
    resume(run, ["trainer.max_steps=11"])


def test_a_run_is_not_ended_before_its_latest_checkpoint(run: Path) -> None:
    refuse(run, ConfigError, "has 5 steps behind it and trainer.max_steps=4 leaves none", "trainer.max_steps=4")


def test_a_run_that_ended_before_its_outcome_may_write_it_down(run: Path) -> None:
    (run / "checkpoints" / "step-00000010").mkdir()
    run_folder.write_status(run, "failed", "killed")
    resume(run, [])
    assert json.loads((run / "status.json").read_text())["state"] == "running"


def test_an_unfinished_checkpoint_is_none(run: Path) -> None:
    (run / "checkpoints" / "step-00000005").rename(run / "checkpoints" / "step-00000005.unfinished")
    refuse(run, CheckpointError, "no complete checkpoint to go on from")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sample.prompt=a: b: c", r"'sample.prompt=a: b: c' cannot be read as YAML; quote text"),
        ("trainer.global_batch=8", "'trainer.global_batch=8' cannot be given when resuming: the order of samples"),
        (
            "trainer.precision=float64",
            "'trainer.precision=float64' cannot be given when resuming: the optimizer's state",
        ),
        ("trainer.batch_ramp.start=2", "'trainer.batch_ramp.start=2' cannot be given when resuming: the order"),
        ("model.repeat=2", "'model.repeat=2' cannot be changed when resuming; give layout.option=value"),
        ("sample.temperature=-1", "temperature=-1"),
    ],
)
def test_an_override_that_cannot_be_honoured_is_named(run: Path, override: str, message: str) -> None:
    refuse(run, ConfigError, message, override)
