"""The error that ended a rank: written down by the worker, read and explained by whoever started it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.core.errors import EyasError
from eyas.parallel.lifeline import end_with_parent

CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Deaths that come from outside or from native code, never from another rank's failure."""
LOST = re.compile(r"connection (was )?(closed|reset|refused)|broken pipe|remote (process|error)|socket", re.IGNORECASE)
"""What ranks say when another one is gone."""
LAUNCHED = "EYAS_LAUNCHED"
"""For workers of `launch`: the process that started them and reports their errors; other workers print theirs."""


@dataclass(frozen=True)
class Death:
    """How a rank's process ended."""

    rank: int
    exit_code: int
    """Negative for a signal."""
    time: int
    """Second in which the launcher saw it, since the epoch."""

    @property
    def signal(self) -> signal.Signals | None:
        return signal.Signals(-self.exit_code) if self.exit_code < 0 else None


@contextmanager
def report_errors(run: Path) -> Iterator[None]:
    """For a worker's `main`: an error inside is written to `run/ranks/error-<rank>.json` and ends the process at once.
    What an earlier worker of this rank wrote there is forgotten. A worker of `launch` ends with the process that
    launched it.

    It does not return to the interpreter, whose shutdown may wait for other ranks. An interrupt ends the process
    without a word, wherever it is.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if LAUNCHED in os.environ:
        end_with_parent(int(os.environ[LAUNCHED]))
    rank = int(os.environ.get("RANK", "0"))
    forget_error(run / "ranks", rank)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        (run / "ranks").mkdir(parents=True, exist_ok=True)
        write_error(run / "ranks", rank, error)
        if rank or LAUNCHED not in os.environ:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def write_error(ranks: Path, rank: int, error: BaseException) -> None:
    """Writes down when and how a rank failed: a line for the user, and the traceback beside it."""
    record = {
        "rank": rank,
        "type": type(error).__name__,
        "message": str(error) or "no message",
        "expected": isinstance(error, EyasError),
        "timestamp": time.time(),
    }
    (ranks / f"error-{rank}.txt").write_text("".join(traceback.format_exception(error)))
    unfinished = ranks / f"error-{rank}.unfinished"
    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    unfinished.replace(ranks / f"error-{rank}.json")


def forget_error(ranks: Path, rank: int) -> None:
    """Removes what `write_error` left in an earlier start of the run."""
    for suffix in ("json", "txt"):
        (ranks / f"error-{rank}.{suffix}").unlink(missing_ok=True)


def explain(ranks: Path, deaths: Sequence[Death]) -> str:
    """One line on the failure that came first. What followed it in other ranks, such as lost connections, is left out.

    A rank that crashed comes before any that wrote down an error: it had no time to. But a rank that was killed seconds
    after the others had ended only did not leave when it was asked to.
    """
    first_second = min(death.time for death in deaths)
    crashed = [death for death in deaths if death.signal in CRASHES and death.time <= first_second + 1]
    if crashed:
        return _death(ranks, crashed[0])
    written = {death.rank: error for death in deaths if (error := _read(ranks / f"error-{death.rank}.json"))}
    own = [error for error in written.values() if not LOST.search(str(error["message"]))]
    silent = [death for death in deaths if death.rank not in written and death.signal is not signal.SIGTERM]
    if silent and not own:
        return _death(ranks, min(silent, key=lambda death: death.time))
    asked = [death for death in deaths if death.signal is signal.SIGTERM]
    if asked and not own:
        return _death(ranks, min(asked, key=lambda death: death.time))
    if written:
        return _error(ranks, min(own or written.values(), key=lambda error: float(error["timestamp"])))
    return _death(ranks, deaths[0])


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _error(ranks: Path, error: dict[str, Any]) -> str:
    line = str(error["message"]).strip().splitlines()[0]
    if error["expected"]:
        return f"rank {error['rank']} failed: {line}"
    whole = ranks / f"error-{error['rank']}.txt"
    return f"rank {error['rank']} failed: {error['type']}: {line}; traceback in {whole}"


def _death(ranks: Path, death: Death) -> str:
    if death.signal is not None:
        guess = " (out of memory?)" if death.signal is signal.SIGKILL else ""
        return f"rank {death.rank} was killed by {death.signal.name}{guess}"
    errors = ranks / f"rank-{death.rank}.err"
    lines = errors.read_text(errors="replace").split("\n") if errors.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = f": {last}" if last else "; what it said is above" if death.rank == 0 else ""
    return f"rank {death.rank} failed with exit code {death.exit_code}{said}"
