"""A sweep that is killed and started again ends as one that nobody disturbed."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from command import TINY, eyas, write_corpus

from eyas.experiments.run_records import find_runs

ASKED = (
    "experiment.question='Does it learn?'", "experiment.budget=moments",
    "experiment.passes=['validation_loss < uniform_loss','accuracy > 0']",
)  # fmt: skip
SWEEP = ("-m", *TINY, *ASKED, "trainer.max_steps=40", "trainer.checkpoint_interval=10", "name=s", "seed=1,2,3")
SPEEDS = ("tokens_per_second", "memory_gib", "seconds", "step_seconds")


def table(folder, *options):
    """The rows of `eyas results --csv`, without what no two runs have in common."""
    told = eyas("results", "runs/s", "--csv", *options, folder=folder)
    assert (told.returncode, told.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    when = next((folder / "runs" / "s").iterdir()).name
    return [
        {name: text.replace(when, "when") for name, text in row.items() if name.removesuffix(" std") not in SPEEDS}
        for row in rows
    ]


def report(folder):
    """What `eyas report` prints, what its page holds and what it draws, without what no two runs have in common."""
    told = eyas("report", "runs/s", folder=folder)
    assert (told.returncode, told.stderr) == (0, "")
    when = next(path.name for path in (folder / "runs" / "s").iterdir() if path.is_dir())
    printed, page = (
        text.replace(when, "when") for text in (told.stdout, (folder / "runs" / "s" / "report.html").read_text())
    )
    before, opening, rest = page.partition('<script type="application/json" id="data">')
    data, _, behind = rest.partition("</script>")
    assert opening
    drawn = json.loads(data)
    drawn["curves"] = [curve for curve in drawn["curves"] if curve["name"] not in SPEEDS]
    heads = re.findall(r'<th scope="col"[^>]*><button[^>]*>(.*?)</button>', before)

    def unmeasured(row):
        cells = re.findall(r"<t[dh] .*?</t[dh]>", row[0])
        return "".join(cell for name, cell in zip(heads, cells, strict=True) if name not in SPEEDS)

    before = re.sub(r"<tr data-rows=.*?</tr>", unmeasured, before)
    before = re.sub(r"<td>(command|folder)</td><td>.*?</td>|· \d{4}-\d\d-\d\d \d\d:\d\d", "", before)
    return printed.splitlines(), before.splitlines(), drawn, behind


def curves(folder):
    """Every run's loss at every step."""
    for run in find_runs(folder / "runs"):
        with (run.path / "metrics.csv").open() as stream:
            yield [(row["step"], row["train/loss"], row["validation/loss"]) for row in csv.DictReader(stream)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_sweep_does_what_is_missing_and_ends_as_if_undisturbed(tmp_path, launcher):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    side_by_side = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    for folder in (disturbed, undisturbed):
        folder.mkdir()
        write_corpus(folder)
    command = [sys.executable, "-m", "eyas.experiments.cli", "train", *SWEEP, *side_by_side]
    sweep = subprocess.Popen(command, cwd=disturbed, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not any(disturbed.glob("runs/s/*/1/checkpoints/step-00000010")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    first = next(disturbed.glob("runs/s/*/0"))
    finished_before = [run.path.name for run in find_runs(disturbed / "runs") if run.state == "finished"]
    assert "2" not in finished_before
    time.sleep(1)  # the system ends what the sweep had started
    unfinished = first.parent / "1" / "status.json"
    done = first / "metrics.json"
    stamp = done.stat().st_mtime_ns if done.exists() else None

    again = eyas("train", *SWEEP, *side_by_side, folder=disturbed)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"{len(finished_before)} finished before" in again.stdout
    assert "finished" in unfinished.read_text()
    assert (first.parent / "1" / "resume-1.yaml").exists(), "it went on from its checkpoint"
    if "0" in finished_before:
        assert done.stat().st_mtime_ns == stamp
    assert [run.name for run in sorted(first.parent.iterdir()) if run.is_dir()] == ["0", "1", "2"]

    alone = eyas("train", *SWEEP, folder=undisturbed)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert table(disturbed) == table(undisturbed)
    assert table(disturbed, "--by-seed") == table(undisturbed, "--by-seed")
    assert list(curves(disturbed)) == list(curves(undisturbed))
    reports = [report(folder) for folder in (disturbed, undisturbed)]
    assert "passed" in str(reports[0][0]) and "train/loss" in str(reports[0][2])
    for ours, theirs in zip(*reports, strict=True):
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "launcher"),
    [
        ("hydra_joblib_launcher", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")),
        ("hydra_submitit_launcher", ("hydra/launcher=submitit_local",)),
    ],
)
def test_launchers_run_jobs_of_several_processes_side_by_side(tmp_path, plugin, launcher):
    pytest.importorskip(f"hydra_plugins.{plugin}")
    write_corpus(tmp_path)
    options = ["layout.tensor=2", "layout.pipeline=1,2", "name=s", *launcher]
    run = eyas("train", "-m", *TINY, *options, folder=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "2 jobs, 2 at once" in run.stdout
    runs = find_runs(tmp_path / "runs")
    assert [found.state for found in runs] == ["finished"] * 2
    losses = [json.loads((found.path / "metrics.json").read_text())["validation_loss"] for found in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
