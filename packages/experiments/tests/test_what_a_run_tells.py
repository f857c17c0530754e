"""What a run prints and leaves of its data, its memory and its curves; what a sweep prints of widths it solved for."""

import csv
import io
import json
import re
from contextlib import redirect_stdout
from math import isfinite
from pathlib import Path

import pytest
import yaml
from command import TEXT, TINY, write_corpus
from pooled import launch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eyas.core.accounting import parameters
from eyas.core.model import load_model
from eyas.experiments import run_folder, sweep_job, workers
from eyas.experiments.cli import main


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder of a run of two steps on eight documents, and what the command printed."""
    place, printed = tmp_path_factory.mktemp("told"), io.StringIO()
    write_corpus(place)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(place)
        patch.setattr(workers, "launch", launch)
        assert main(["train", *TINY]) == 0
    (folder,) = (place / "runs" / "run").iterdir()
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def run(told):
    return told[0]


def number(text):
    return float(text.replace(",", ""))


def test_the_printed_line_and_the_card_tell_of_the_tokens_on_disk(told):
    run, printed = told
    line = r"Data: ([\d,]+) training tokens, ([\d.]+) bytes each, in (\d+) documents of \d+ at the median; ([\d,]+) for"
    tokens, each, documents, held_out = map(number, re.search(rf"^{line} validation$", printed, re.MULTILINE).groups())
    (directory,) = json.loads((run / "data.json").read_text())["directories"].values()
    sizes = [(Path(directory) / f"{part}.bin").stat().st_size // 2 for part in ("train", "validation")]
    assert sizes == [tokens, held_out]
    card = (run / "card.md").read_text()
    row = re.search(r"^\| all \| 1 \| (.*) \|$", card, re.MULTILINE)[1].split(" | ")
    files, trained_on, trained, size, kept, validated = map(number, row[:6])
    assert (files, trained_on + kept, trained_on, trained, validated) == (8, 8, documents, tokens, held_out)
    assert size / tokens == pytest.approx(each, abs=0.005)
    texts = [TEXT[first:] * 8 for first in range(8)]
    assert size in [sum(map(len, texts)) - len(text) for text in texts]
    sample = card.partition("The beginning of a training document:\n\n")[2].strip()
    assert len(sample) > 40 and any(text.startswith(sample) for text in texts)


def test_memory_is_measured_at_every_step(run):
    with (run / "metrics.csv").open() as stream:
        measured = [float(row["memory_gib"]) for row in csv.DictReader(stream)]
    assert len(measured) == 2 and all(isfinite(value) and value > 0.05 for value in measured)
    assert run_folder.read_metrics(run)["memory_gib"] == pytest.approx(max(measured))


def test_tensorboard_has_the_curves_without_being_asked_for(run):
    (file,) = (run / "tensorboard").glob("events.out.tfevents.*")
    with (run / "metrics.csv").open() as stream:
        logged = [float(row["train/loss"]) for row in csv.DictReader(stream)]
    events = EventAccumulator(str(file.parent)).Reload().Scalars("train/loss")
    assert [event.value for event in events] == pytest.approx(logged)


def test_a_sweep_prints_the_width_that_it_solved_for_each_job_and_runs_it(tmp_path, monkeypatch, capsys):
    def done(folder, *_, **__):
        run_folder.write_metrics(folder, {"validation_loss": 1.0})
        run_folder.write_status(folder, "finished")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_job, "start", done)
    models = "model=hybrid_table/transformer,hybrid_table/jamba_like"
    assert main(["train", "-m", "experiment=hybrid_table", "task=hybrid_table/mqar", models, "seed=1"]) == 0
    solved = re.findall(
        r"^matched parameters to 192000: (.*): ([\d,]+), ([+-][\d.]+%) of 192,000$", capsys.readouterr().out, re.M
    )
    assert len(solved) == 2
    for job, (widths, cost, apart) in enumerate(solved):
        (config,) = tmp_path.glob(f"runs/hybrid_table/*/{job}/config.yaml")
        model = yaml.safe_load(config.read_text())["model"]
        for option, width in re.findall(r"model\.layers\.(\S+)\.intermediate_size=(\d+)", widths):
            assert model["layers"][option]["intermediate_size"] == int(width)
        assert f"{parameters(load_model(model)):,}" == cost
        assert f"{parameters(load_model(model)) / 192_000 - 1:+.2%}" == apart
    assert "layers.moe." in solved[1][0] and "layers.moe." not in solved[0][0]
