"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eyas.core.errors import ConfigError

LOCK = "writer.lock"
"""Names the process that writes to the folder, and is locked while it does."""


@contextmanager
def hold(folder: Path, what: str) -> Iterator[None]:
    """Keeps the folder to this process; the system lets go of it when the process ends, however it ends. Raises
    ConfigError where another process holds it; `what` is what that one does to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise ConfigError(
                f"{folder} is being {what} by {stream.read().strip() or 'another process'}; wait for it or end it"
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n")
        stream.flush()
        yield


def is_held(folder: Path) -> bool:
    """Whether a process writes to the folder."""
    try:
        with (folder / LOCK).open() as stream:
            fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
