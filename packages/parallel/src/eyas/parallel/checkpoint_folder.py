"""Which checkpoints a run has, told from folder names alone: whoever starts the workers asks, before Megatron loads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

UNFINISHED = ".unfinished"
"""Suffix of a checkpoint folder that is still being written, or is being deleted; what carries it is never loaded."""


def at_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step of a complete checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def complete(folder: Path) -> dict[int, Path]:
    """The complete checkpoints in `folder`, by step."""
    return {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"step-(\d+)", path.name)) and path.is_dir()
    }


def delete(path: Path) -> None:
    """Deletes a checkpoint, which counts as none from the beginning, so that no half of it is ever taken for whole."""
    shutil.rmtree(path.rename(path.with_name(f"{path.name}.old{UNFINISHED}")))


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed run left half-written or half-deleted."""
    for left in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(left)


def latest(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder`; None if there is none."""
    found = complete(folder)
    return found[max(found)] if found else None
