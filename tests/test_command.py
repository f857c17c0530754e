"""A multirun with a job that fails: the others run, and the results say why it failed."""

import csv
import io
import json

import pytest
from command import TINY, eyas, write_corpus


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A multirun of two jobs, the first of which asks for an impossible layout."""
    folder = tmp_path_factory.mktemp("sweep")
    write_corpus(folder)
    return folder, eyas("train", "-m", "layout.tensor=3,1", *TINY, folder=folder)


def test_failing_job_does_not_stop_the_others(swept):
    folder, sweep = swept
    states = [json.loads(path.read_text())["state"] for path in sorted(folder.glob("runs/run/*/?/status.json"))]
    assert states == ["failed", "finished"], sweep.stderr
    assert sweep.returncode == 2
    assert "layout.tensor=3" in sweep.stderr
    assert "Traceback" not in sweep.stderr + sweep.stdout


def test_results_show_each_job_and_the_failure_in_one_line(swept):
    folder, _ = swept
    (multirun,) = folder.glob("runs/run/*")
    shown = eyas("results", str(multirun), folder=folder)
    assert shown.returncode == 0, shown.stderr
    assert "FAILED" in shown.stdout
    assert "cannot be split over" in " ".join(shown.stdout.replace("│", " ").split())
    rows = list(csv.DictReader(io.StringIO(eyas("results", str(multirun), "--csv", folder=folder).stdout)))
    assert [row["layout.tensor"] for row in rows] == ["3", "1"]
    assert float(rows[1]["validation_loss"]) > 0
