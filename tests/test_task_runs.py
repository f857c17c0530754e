"""Every task trains and is tested through the command line."""

import csv
import json
import shutil

import pytest
from command import eyas
from pooled import launch

from eyas.experiments import workers
from eyas.experiments.cli import main
from eyas.experiments.tasks import KINDS

MODEL = (
    "model=mamba2_attention_tiny", "model.hidden_size=16", "model.pattern=[ssm,attn]", "model.layers.ssm.head_dim=8",
    "model.layers.ssm.state_size=4", "model.layers.attn.head_dim=8", "model.layers.attn.rotary_dim=null",
)  # fmt: skip
SHORT = ("trainer.max_steps=20", "trainer.global_batch=4", "data.validation_sequences=6", "schedule.warmup_steps=2")
SIZES = {
    "mqar": ("task.vocab_size=32", "task.sequence_length=16", "task.pairs=2", "task.eval_lengths=[32]"),
    "copying": ("task.longest=8", "task.eval_lengths=[16]"),
    "phonebook": ("task.fewest=3", "task.entries=4", "task.names=20", "task.eval_lengths=[8]"),
    "induction": ("task.sequence_length=16", "task.eval_lengths=[32]"),
    "selective_copying": ("task.length=16", "task.data_tokens=4", "task.eval_lengths=[32]"),
    "synthetic_corpus": ("task.symbols=8", "task.keys=2", "task.sequence_length=32", "task.eval_lengths=[64]"),
}
"""Options of a task that make it a small one, the last a longer test."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_trains_and_is_tested(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "launch", launch)
    assert main(["train", f"task={kind}", *SIZES[kind], *MODEL, *SHORT]) == 0
    assert f"Tests of task {kind} after 20 steps" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs" / "run").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    longer = SIZES[kind][-1].split("[")[1].rstrip("]")
    told = ("loss", "excess_loss") if kind == "synthetic_corpus" else ("loss", "accuracy")
    assert all(f"{name}@{longer}" in metrics for name in told)
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1][f"validation/{told[1]}"]) == pytest.approx(metrics[told[1]], rel=1e-6)
    assert float(rows[-1]["validation/loss"]) == pytest.approx(metrics["validation_loss"], rel=1e-6)
    assert not (folder / "tokenizer.json").exists()
    assert main(["results", "runs/run"]) == 0
    assert told[1] in capsys.readouterr().out


@pytest.fixture(scope="module")
def mqar(tmp_path_factory):
    """A folder with a run of task mqar of twelve steps, checkpoints after six and twelve, in one process."""
    place = tmp_path_factory.mktemp("mqar")
    steps = ("trainer.max_steps=12", "trainer.checkpoint_interval=6")
    exact = ("trainer.microbatch=2", "trainer.precision=float64")
    run = eyas("train", "task=mqar", *SIZES["mqar"], *MODEL, *SHORT, *steps, *exact, "name=one", folder=place)
    assert (run.returncode, run.stderr) == (0, "")
    return place


def metrics_of(folder):
    told = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in told.items() if name.startswith(("accuracy", "loss", "validation"))}


@pytest.mark.slow
def test_a_run_resumed_on_another_layout_ends_with_the_same_metrics(mqar):
    (folder,) = (mqar / "runs" / "one").iterdir()
    expected = metrics_of(folder)
    assert {"accuracy", "accuracy@32", "loss@32", "validation_loss"} <= expected.keys()
    resumed = mqar / "resumed"
    shutil.copytree(folder, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000012")
    (resumed / "metrics.json").unlink()
    (resumed / "status.json").write_text('{"state": "failed", "error": "killed"}')
    run = eyas("resume", str(resumed), "layout.data=2", folder=mqar)
    assert (run.returncode, run.stderr) == (0, "")
    assert metrics_of(resumed) == pytest.approx(expected, rel=1e-9)


REFUSED = {
    "generate": (("generate", "runs/one", "--prompt", "x"), "which has no text to go on with"),
    "export": (("export-hf", "runs/one", "out"), "which has no tokenizer to export"),
    "text after it": (("train", "--dry-run", "start_from=RUN"), "which has no tokenizer to start from"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_text_is_refused(mqar, arguments, message):
    (folder,) = (mqar / "runs" / "one").iterdir()
    run = eyas(*(text.replace("RUN", str(folder)) for text in arguments), folder=mqar)
    assert run.returncode == 2 and message in run.stderr and run.stderr.count("\n") == 1


def test_a_task_starts_from_a_task(mqar):
    (folder,) = (mqar / "runs" / "one").iterdir()
    further = ("task=mqar", *SIZES["mqar"][:1], "task.sequence_length=32", "task.pairs=4", *SHORT)
    run = eyas("train", "--dry-run", f"start_from={folder}", *further, folder=mqar)
    assert (run.returncode, run.stderr) == (0, "")
