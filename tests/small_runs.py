"""Small runs through the command line, in processes of their own."""

import csv
import json
import os
import subprocess
import sys

SMALL = (
    "model.mup=null", "model.hidden_size=32", "model.repeat=1",
    "model.layers.ssm.num_heads=4", "model.layers.ssm.head_dim=8",
    "model.layers.ssm.state_size=8", "model.layers.attn.head_dim=8", "model.layers.ffn.intermediate_size=48",
    "data.vocab_size=400", "data.sequence_length=32", "data.validation_sequences=8",
    "trainer.max_steps=20", "trainer.global_batch=8", "trainer.microbatch=2", "trainer.checkpoint_interval=10",
    "schedule.warmup_steps=2",
)  # fmt: skip
"""A model of a few thousand weights; without the muP law, whose multipliers are meant for real widths."""


def write_texts(folder):
    """A small corpus, text0.txt to text11.txt."""
    words = [f"word{number} " * (number % 5 + 1) for number in range(300)]
    for number in range(12):
        (folder / f"text{number}.txt").write_text("".join(words[number * 20 :: 3]) * 20)


def eyas(place, *arguments, **options):
    """Starts the command in `place`."""
    environment = {**os.environ, "EYAS_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "eyas.experiments.cli", *arguments]
    return subprocess.Popen(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def train(place, name, *overrides):
    """Trains and returns the run folder; the terminal must hold our lines alone."""
    process = eyas(place, "train", "data.files=text*.txt", *SMALL, f"name={name}", *overrides)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err == ""
    (folder,) = (place / "runs" / name).iterdir()
    assert f"Run folder: runs/{name}/{folder.name}" in out
    return folder


def losses(folder):
    with (folder / "metrics.csv").open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream)]


def last_loss(folder):
    return json.loads((folder / "metrics.json").read_text())["validation_loss"]
