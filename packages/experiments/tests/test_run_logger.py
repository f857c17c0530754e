"""metrics.csv of a run."""

import csv
import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from eyas.experiments.run_logger import RunLogger

Log = list[tuple[int, dict[str, float]]]
numbers = st.sampled_from([0.0, -1.5, 0.1, 3e-4, math.inf, math.nan])
metrics = st.dictionaries(st.sampled_from(["loss", "lr", "val/loss", "grad norm, L2"]), numbers, min_size=1)
logs = st.lists(st.tuples(st.integers(0, 6), metrics), max_size=12)


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def log(folder: Path, *entries: tuple[int, dict[str, float]]) -> RunLogger:
    logger = RunLogger(folder)
    for step, values in entries:
        logger.log_metrics(values, step)
    return logger


@given(st.floats() | st.floats(width=32))
def test_numbers_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    folder = tmp_path_factory.mktemp("run")
    log(folder, (0, {"loss": number}))
    text = read(folder)[0]["loss"]
    assert repr(float(text)) == repr(number) or (np.float32(text) == number and text == str(np.float32(number)))


@given(logs)
def test_the_file_is_a_table_by_step_of_everything_logged(
    tmp_path_factory: pytest.TempPathFactory, entries: Log
) -> None:
    folder = tmp_path_factory.mktemp("run")
    expected: dict[int, dict[str, str]] = {}
    logger = RunLogger(folder)
    for step, values in entries:
        logger.log_metrics(values, step)
        expected.setdefault(step, {"step": str(step)}).update({name: repr(value) for name, value in values.items()})
        rows = [{name: value for name, value in row.items() if value} for row in read(folder)]
        assert rows == [expected[step] for step in sorted(expected)]


@given(logs, logs)
def test_a_new_logger_goes_on_with_the_file_of_the_last(
    tmp_path_factory: pytest.TempPathFactory, before: Log, after: Log
) -> None:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    log(one, *before, *after)
    log(two, *before)
    log(two, *after)
    assert ((one / "metrics.csv").exists() and read(one)) == ((two / "metrics.csv").exists() and read(two))


def test_validation_shares_the_row_of_its_step_and_adds_a_column(tmp_path: Path) -> None:
    log(tmp_path, (0, {"loss": 2.0}), (1, {"loss": 1.0}), (1, {"val/loss": 1.5}), (2, {"loss": 0.5}))
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,val/loss\n0,2.0,\n1,1.0,1.5\n2,0.5,\n"


def test_resuming_drops_the_rows_that_will_be_written_again(tmp_path: Path) -> None:
    log(tmp_path, *((step, {"loss": 10.0 - step}) for step in range(6)))
    resumed = RunLogger(tmp_path)
    resumed.resume_at(3)
    assert [row["step"] for row in read(tmp_path)] == ["0", "1", "2"]
    resumed.log_metrics({"loss": 1.0, "lr": 0.1}, 3)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,lr\n0,10.0,\n1,9.0,\n2,8.0,\n3,1.0,0.1\n"


def test_resuming_at_the_beginning_starts_over(tmp_path: Path) -> None:
    log(tmp_path, (0, {"old": 1.0})).resume_at(0)
    log(tmp_path, (0, {"new": 2.0}))
    assert (tmp_path / "metrics.csv").read_text() == "step,new\n0,2.0\n"


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    log(tmp_path, (0, {"loss": 1.0, "lr": 0.1}), (1, {"loss": 2.0, "lr": 0.1}))
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text()[: -len(",0.1\n")])
    log(tmp_path, (2, {"loss": 3.0, "lr": 0.1}))
    assert [row["step"] for row in read(tmp_path)] == ["0", "2"]


class Model(L.LightningModule):
    """Logs a number each step and one each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, index: int) -> None:
        self.optimizers().step()
        self.log_dict({"loss": float(batch.sum()), "lr": 0.1})

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val/loss", float(batch.sum()))


def test_lightning_writes_one_row_a_step(tmp_path: Path) -> None:
    trainer = L.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=RunLogger(tmp_path),
        log_every_n_steps=1,
        val_check_interval=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = [torch.full((1,), float(step)) for step in range(4)]
    trainer.fit(Model(), DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,loss,lr,val/loss\n0,0.0,0.1,\n1,1.0,0.1,0.0\n2,2.0,0.1,\n3,3.0,0.1,0.0\n"
    )


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L.pytorch.utilities.rank_zero_only, "rank", 1)
    log(tmp_path, (0, {"loss": 1.0})).resume_at(0)
    assert list(tmp_path.iterdir()) == []
