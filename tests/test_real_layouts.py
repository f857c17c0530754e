"""Models as they are shipped learn real text through `eyas train`, and under a layout what one process does.

Here workers are forks, with the checks and the run folder of any other training; tests/test_runs.py starts processes.
"""

import csv
import json
import math
import shutil
from functools import cache

import pytest
from forked_workers import Forks
from small_runs import last_loss, losses

from eyas.experiments.cli import main
from eyas.experiments.conf_tree import conf_folder

pytestmark = pytest.mark.slow

QUICKSTART = ("experiment=quickstart", "trainer.max_steps=20", "sample=none", "data.validation_sequences=8")
"""The first steps of the quickstart: its model, its text and its batches of 8 sequences of 256 tokens."""
SHORT = (*QUICKSTART, "data.sequence_length=64", "trainer.microbatch=2")
WITHIN = 1e-4
"""Of the loss. Rounding parts the curves of a Falcon-H1 by 2e-7 over 20 steps."""
MIXTURE = ("model=nemotron3_tiny",), ("layout.expert=4", "layout.data=4", "layout.pipeline=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains, or has trained, with the options that it is given; returns the run folder, without its checkpoints."""
    folder = tmp_path_factory.mktemp("real")

    @cache
    def train(*overrides):
        assert main(["train", *overrides, f"runs={folder / 'runs'}", "name=real"]) == 0
        (run,) = (found for found in folder.glob("runs/real/*") if (found / "checkpoints").exists())
        shutil.rmtree(run / "checkpoints")
        return run

    forks = Forks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYAS_CACHE", str(folder / "cache"))
        patch.setattr("eyas.experiments.workers.launch", forks.launch)
        yield train
    forks.close()


def assert_same_curve(actual, expected, begins_within=WITHIN):
    ours, theirs = ([*losses(run), last_loss(run)] for run in (actual, expected))
    assert len(ours) == len(theirs) == 21
    differences = [abs(a - e) / e for a, e in zip(ours, theirs, strict=True)]
    assert max(differences) < WITHIN
    assert max(differences[:10]) < begins_within
    assert theirs[19] < theirs[0] - 1


LAYOUTS = (
    ("layout.tensor=2",),
    ("layout.tensor=2", "layout.sequence=true"),
    ("layout.pipeline=2",),
    ("layout.data=2",),
    ("layout.data=2", "layout.distributed_optimizer=true"),
    ("layout.tensor=2", "layout.pipeline=2"),
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
def test_the_quickstart_follows_the_curve_of_one_process(trained, layout):
    assert_same_curve(trained(*QUICKSTART, *layout), trained(*QUICKSTART))


MANY = (
    ("layout.tensor=2", "layout.pipeline=2", "layout.data=2"),
    ("layout.context=4", "trainer.microbatch=8"),
)


@pytest.mark.parametrize("layout", MANY, ids=" ".join)
def test_many_processes_follow_the_curve_of_one(trained, layout):
    assert_same_curve(trained(*SHORT, *layout), trained(*SHORT))


def test_a_mixture_on_many_processes_follows_the_curve_of_one(trained):
    """In float64: 20 steps of a mixture magnify rounding a million times, as a token between two experts goes to the
    other, and in float32 that may be a thousandth of the loss."""
    model, layout = MIXTURE
    alone = (*SHORT, *model, "trainer.precision=float64")
    assert_same_curve(trained(*alone, *layout), trained(*alone), begins_within=1e-6)


def test_a_mixture_learns_on_many_processes_in_float32(trained):
    model, layout = MIXTURE
    curve = losses(trained(*SHORT, *model, *layout))
    assert len(curve) == 20
    assert curve[19] < curve[0] - 1


@pytest.mark.parametrize("model", sorted(path.stem for path in (conf_folder() / "model").glob("*_tiny*.yaml")))
def test_a_small_model_is_trained_by_its_name(trained, model):
    few = ("data.sequence_length=32", "trainer.max_steps=2", "trainer.global_batch=4", "trainer.microbatch=2")
    run = trained(f"model={model}", *few, "data.validation_sequences=2", "schedule.warmup_steps=1")
    with (run / "metrics.csv").open() as stream:
        norms = [float(row["grad_norm"]) for row in csv.DictReader(stream)]
    assert len(norms) == json.loads((run / "metrics.json").read_text())["steps"] == 2
    assert all(math.isfinite(loss) for loss in (*losses(run), last_loss(run)))
    assert all(0 < norm < math.inf for norm in norms)
