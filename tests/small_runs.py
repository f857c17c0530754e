"""Small runs through the command line, in processes of their own."""

import csv
import json
import os
import re
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

CARD = (
    r"Data: [\d,]+ training tokens, [\d.]+ bytes each, in [\d,]+ documents of [\d,]+ at the median; "
    r"[\d,]+ for validation\n"
)
FIGURES = r"loss [\d.]+  [\d,]+ tokens  [\d,]+ tokens/s  (MFU [\d.]+%  )?[\d.]+ GiB(  validation [\d.]+)?"
OUTCOME = (
    r"Loss on the validation files \(nats per token\) *\n"
    r"┏━+┳━+┳━+┓\n┃ uniform ┃ unigram ┃ +\w+ after \d+ steps ┃\n┡━+╇━+╇━+┩\n"
    r"│ +(?P<uniform>[\d.]+) │ +(?P<unigram>[\d.]+) │ +(?P<validation>[\d.]+) │\n└─+┴─+┴─+┘\n"
    r"[\d.]+% (below|above) the unigram cross-entropy\nRun folder: (?P<folder>\S+)\n"
)
"""What a training prints: first the text that it learns from, then its steps, at last what came of it."""


def write_texts(folder):
    """A small corpus, text0.txt to text11.txt."""
    words = [f"word{number} " * (number % 5 + 1) for number in range(300)]
    for number in range(12):
        (folder / f"text{number}.txt").write_text("".join(words[number * 20 :: 3]) * 20)


def eyas(place, *arguments, **options):
    """Starts the command in `place`."""
    environment = {**os.environ, "EYAS_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "eyas.experiments.cli", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, cwd=place, env=environment, **options)


def train(place, name, *overrides):
    """Trains and returns the run folder; the terminal must hold our lines alone."""
    process = eyas(place, "train", "data.files=text*.txt", *SMALL, f"name={name}", *overrides)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err == ""
    (folder,) = (place / "runs" / name).iterdir()
    assert_tells(CARD + rf"(step \d+/\d+  {FIGURES}\n)+" + OUTCOME, out, folder)
    return folder


def assert_tells(form, said, folder):
    """A training said nothing outside the form, and of its outcome what the run folder holds."""
    told = re.fullmatch(form, said)
    assert told, said
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("uniform", "unigram", "validation"):
        assert told[name] == f"{metrics[f'{name}_loss']:.4f}"
    assert told["folder"] == "/".join(folder.parts[-3:])


def losses(folder):
    with (folder / "metrics.csv").open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream)]


def last_loss(folder):
    return json.loads((folder / "metrics.json").read_text())["validation_loss"]
