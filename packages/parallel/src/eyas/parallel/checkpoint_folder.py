"""Which checkpoints a run has, told from folder names alone: whoever starts the workers asks, before Megatron loads."""

from __future__ import annotations

import re
from pathlib import Path

UNFINISHED = ".unfinished"
"""Suffix of a checkpoint folder that is still being written; what carries it is never loaded."""


def at_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def complete(folder: Path) -> dict[int, Path]:
    """The complete checkpoints in `folder`, by step."""
    return {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"step-(\d+)", path.name)) and path.is_dir()
    }


def latest(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder`; None if there is none."""
    found = complete(folder)
    return found[max(found)] if found else None
