"""Starts a run's worker processes through torch's elastic launcher, in this process, and tells how they ended.

Neither Megatron nor Lightning is imported here, so that the workers start at once. A worker's `main` runs inside
`report_errors`, which writes down the error that ended it, so that the parent can say which rank failed first and why.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

from eyas.core.errors import WorkerError
from eyas.parallel import quiet
from eyas.parallel.environment import RANK_VARIABLES, joined
from eyas.parallel.layout import cores_here
from eyas.parallel.rank_errors import LAUNCHED, Death, explain, forget_error, report_errors

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

__all__ = ["Followers", "follow", "launch", "report_errors"]

GRACE = 3
"""Seconds between asking the remaining ranks to end and killing them. They may wait for a dead one in a collective."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def launch(run: Path, module: str, arguments: Sequence[str], processes: int, *, on_terminal: bool = True) -> None:
    """Runs `python -m module arguments...` as `processes` ranks of one job on this machine, to their end. In a process
    that is already a rank of a torchrun or SLURM job, runs it as that rank.

    Rank 0 has this terminal, unless `on_terminal` is false; the others write to `run/ranks`. Raises WorkerError with
    the first failure, and KeyboardInterrupt when interrupted; no worker outlives the call or the process that makes it.
    """
    command = [sys.executable, "-m", module, *arguments]
    ranks = run / "ranks"
    job = joined()
    if job is not None:
        _run_as_rank(ranks, job.rank, command)
        return
    shutil.rmtree(ranks, ignore_errors=True)
    ranks.mkdir(parents=True)
    with _worker_environment(processes), _signals_restored():
        deaths = _run_elastic(ranks, command, processes, on_terminal)
    if deaths:
        raise WorkerError(explain(ranks, deaths))


def _run_elastic(ranks: Path, command: Sequence[str], processes: int, on_terminal: bool) -> list[Death]:
    """Runs the workers; returns what became of those that failed, or nothing."""
    from torch.distributed.elastic.multiprocessing import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    # When a rank fails, torch asks the others to end and then waits 30 s, with no setting for it
    # (elastic/multiprocessing/api.py, PContext.close).
    impatient = patch.object(PContext.close, "__defaults__", (None, GRACE))
    try:
        with quiet.launching(), impatient:
            elastic_launch(_config(ranks, processes, on_terminal), command[0])(*command[1:])
    except ChildFailedError as error:
        return [Death(rank, end.exitcode, end.timestamp) for rank, end in error.failures.items()]
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    return []


def _config(ranks: Path, processes: int, on_terminal: bool) -> LaunchConfig:
    from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    class RankFiles(LogsSpecs):
        """Every rank in two files of its own, except rank 0 where it has the terminal."""

        def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
            files = {
                stream: {rank: str(ranks / f"rank-{rank}.{stream}") if rank or not on_terminal else "" for rank in envs}
                for stream in ("out", "err")
            }
            nowhere = dict.fromkeys(envs, "")
            return LogsDest(files["out"], files["err"], nowhere, nowhere, nowhere)

        @property
        def root_log_dir(self) -> str:
            return str(ranks)

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        logs_specs=RankFiles(),
        run_id="eyas",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )


@contextmanager
def _worker_environment(processes: int) -> Iterator[None]:
    """The environment that workers inherit: nothing of another job, and as many threads as there are cores to share."""
    before = dict(os.environ)
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // processes)))
    os.environ[LAUNCHED] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(GRACE)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Puts back the signal handlers that the elastic launcher replaces and leaves replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments...` as this rank of the torchrun or SLURM job that this process is part of;
    rank 0 says what there is to do. Raises WorkerError where it fails."""
    job = joined()
    assert job is not None
    code = _run_to_end([sys.executable, "-m", module, *arguments])
    if code:
        raise WorkerError(f"rank {job.rank} failed with exit code {code}; rank 0 or the lines above say why")


class Followers:
    """The other ranks of a torchrun or SLURM job, which `follow`. Where an error leaves the block before `launched`,
    runs `python -m module arguments...` as rank 0, which is to tell them: SLURM would let them wait for the half hour
    that torch.distributed waits. Does nothing where there are none, or for a command that they do not follow."""

    def __init__(self, module: str, arguments: Sequence[str], *, follow: bool = True) -> None:
        self.command = [sys.executable, "-m", module, *arguments]
        job = joined()
        self.waiting = follow and job is not None and job.world_size > 1

    def __enter__(self) -> Self:
        return self

    def launched(self) -> None:
        """From here on they end with their own work."""
        self.waiting = False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.waiting and isinstance(error, Exception):
            _run_to_end(self.command)


def _run_as_rank(ranks: Path, rank: int, command: Sequence[str]) -> None:
    ranks.mkdir(parents=True, exist_ok=True)
    forget_error(ranks, rank)
    code = _run_to_end(command)
    if code:
        raise WorkerError(explain(ranks, [Death(rank, code, 0)]))


def _run_to_end(command: Sequence[str]) -> int:
    with subprocess.Popen(command) as worker:
        try:
            return worker.wait()
        except BaseException:
            worker.kill()
            raise
