"""The `eyas` command as a user runs it, a corpus small enough to train on in a moment, and installed plugins."""

import os
import subprocess
import sys
from pathlib import Path

TEXT = "a falcon reads what the eyas writes and writes what the falcon reads "
TINY = (
    "model.hidden_size=16", "model.repeat=1", "model.layers.attn.head_dim=8", "model.layers.ssm.head_dim=8",
    "model.layers.ssm.state_size=4", "model.layers.ffn.intermediate_size=32",
    "data=files", "data.files=texts/*.txt", "data.cache=cache", "data.vocab_size=262", "data.sequence_length=16",
    "trainer.max_steps=2", "trainer.global_batch=4", "trainer.microbatch=2", "schedule.warmup_steps=1",
)  # fmt: skip
"""Overrides that make a run of two steps out of the default one, on `write_corpus`."""


def write_corpus(folder: Path) -> None:
    """Eight documents in folder/texts."""
    (folder / "texts").mkdir()
    for number in range(8):
        (folder / "texts" / f"{number}.txt").write_text(TEXT[number:] * 8)


def eyas(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `eyas arguments...` in a folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "eyas.experiments.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def install(package: Path, target: Path) -> None:
    """Installs a package, and nothing else, into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(package)], check=True)
