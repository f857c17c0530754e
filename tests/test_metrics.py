"""What a whole run tells of its steps, on two pipeline stages: docs/metrics.md, row by row."""

import csv
import json
import math
from statistics import median

import pytest
from command import eyas

from eyas.parallel.step_clock import PARTS

RUN = (
    "model=mamba2_attention_tiny", "model.hidden_size=16", "model.pattern=[ssm,attn]", "model.layers.ssm.head_dim=8",
    "model.layers.ssm.state_size=4", "model.layers.attn.head_dim=8", "model.layers.attn.rotary_dim=null",
    "task=mqar", "task.vocab_size=32", "task.sequence_length=16", "task.pairs=2", "data.validation_sequences=4",
    "trainer.max_steps=8", "trainer.global_batch=4", "trainer.microbatch=1", "trainer.validation_interval=3",
    "schedule.warmup_steps=2", "layout.pipeline=2", "logger=csv", "profile=torch", "profile.start=4",
    "trainer.peak_tflops=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run, whose terminal has our lines alone."""
    place = tmp_path_factory.mktemp("metrics")
    run = eyas("train", *RUN, folder=place)
    assert (run.returncode, run.stderr) == (0, "")
    assert all(line.startswith("step ") for line in run.stdout.splitlines()[:8]), run.stdout
    assert "  MFU " in run.stdout
    (folder,) = (place / "runs" / "run").iterdir()
    return folder


@pytest.fixture(scope="module")
def rows(run):
    with (run / "metrics.csv").open() as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def test_the_parts_of_a_step_sum_to_it_and_validation_is_in_none(rows):
    for row in rows:
        assert sum(row[f"time/{part}"] for part in PARTS) == pytest.approx(row["step_seconds"], rel=0.02)
        assert all(row[f"time/{part}"] > 0 for part in PARTS)
    assert all(rows[step]["time/data"] < 0.5 * rows[step]["step_seconds"] for step in (3, 6)), "behind validations"


def test_gradient_norms_of_kinds_make_the_whole_one_on_the_last_stage_s_kinds_too(rows):
    for row in rows:
        kinds = {name: value for name, value in row.items() if name.startswith("grad_norms/")}
        assert {"grad_norms/mamba2", "grad_norms/attention", "grad_norms/embedding"} <= kinds.keys()
        assert math.hypot(*kinds.values()) == pytest.approx(row["grad_norm"], rel=1e-5)


def test_mfu_is_the_model_s_flops_over_the_peak_of_all_devices(run, rows):
    told = json.loads((run / "metrics.json").read_text())
    for row in rows:
        flops = told["training_flops_per_token"] * row["tokens_per_second"]
        assert row["mfu"] == pytest.approx(flops / (2 * 2e12), rel=1e-5)
    for figure in ("mfu", "tokens_per_second"):
        assert told[figure] == pytest.approx(median(row[figure] for row in rows), rel=1e-5)


def test_only_the_csv_was_asked_for(run):
    assert not (run / "tensorboard").exists()


def test_each_rank_s_trace_names_its_blocks_and_mixers(run):
    inside = [("block 0", "ssm (mamba2)"), ("block 1", "attn (attention)")]
    for rank, (block, mixer) in enumerate(inside):
        trace = json.loads((run / "profile" / f"steps-5-6-rank-{rank}.json").read_text())["traceEvents"]
        regions = {}
        for event in trace:
            if event.get("cat") == "user_annotation":
                regions.setdefault(event["name"], []).append((event["ts"], event["ts"] + event["dur"]))
        assert len(regions[block]) == len(regions[mixer]) == 2 * 4
        within = zip(sorted(regions[mixer]), sorted(regions[block]), strict=True)
        assert all(begun >= outer and ended <= last for (begun, ended), (outer, last) in within)
        assert {"forward", "reduction", "optimizer"} <= regions.keys()
        assert not set(inside[1 - rank]) & regions.keys()
    assert len(list((run / "profile").iterdir())) == 2


def test_a_trace_of_more_steps_than_there_are_is_refused(tmp_path):
    run = eyas("train", *RUN, "profile.start=7", folder=tmp_path)
    assert run.returncode == 2
    assert run.stderr == (
        "eyas: profile.start=7 and profile.steps=2 are 9 steps, but 8 are to be trained; make them smaller, or "
        "trainer.max_steps larger\n"
    )
