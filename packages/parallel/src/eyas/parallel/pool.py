"""Worker processes for proofs: started once, forked from a server that has torch and Megatron loaded, and reused.

The workers compute on the CPU and talk over gloo, whatever the machine has, so that a proof can use float64 and as many
ranks as it needs.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from typing import Any

from eyas.core.errors import WorkerError
from eyas.parallel import pool_worker

PRELOADED = ("eyas.parallel.groups", "eyas.parallel.collectives", "eyas.parallel.pool_worker")
PRELOADED_IF_USED = ("pytest", "hypothesis", "lightning", "eyas.layers")
GRACE = 1.0
"""Seconds that the other ranks get to answer after one failed; they may wait for it in a collective."""


@functools.cache
def pool(size: int) -> WorkerPool:
    """The pool of `size` workers of this process, started on first use and closed at exit."""
    return WorkerPool(size)


@functools.cache
def preload() -> None:
    """Starts the server that workers are forked from. It loads its modules in the background."""
    used = [name for name in PRELOADED_IF_USED if name in sys.modules]
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, *used])
    environment = dict(os.environ)
    os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(environment)


class WorkerPool:
    """A number of worker processes that form one torch.distributed world and run functions together."""

    def __init__(self, size: int, timeout: float = 120.0) -> None:
        self.size = size
        self.timeout = timeout
        """Seconds after which a call counts as stuck."""
        self.processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._store: Any = None
        atexit.register(self.close)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Calls `function(*args)` in every worker and returns the results by rank. The function is named by its module,
        so it must be importable. An exception in a worker is raised here, with that worker's rank and traceback as a
        note; a worker that dies, or does not answer, is a WorkerError, and the next call finds fresh workers."""
        if not self.processes:
            self._start()
        call = pool_worker.packed(function, args)
        try:
            for pipe in self._pipes:
                pipe.send_bytes(call)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None
        try:
            return self._results()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers; a later call starts new ones."""
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        self.processes, self._pipes, self._store = [], [], None

    def _start(self) -> None:
        from torch.distributed import TCPStore

        preload()
        context = multiprocessing.get_context("forkserver")
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self.size, self._store.port)
            process = context.Process(target=pool_worker.serve, args=arguments, name=f"rank {rank} of {self.size}")
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)

    def _results(self) -> list[Any]:
        answers: dict[int, Any] = {}
        failures: dict[int, BaseException] = {}  # in the order of their arrival: the first is the cause
        deadline = time.monotonic() + self.timeout
        while len(answers) + len(failures) < self.size:
            waiting = {self._pipes[rank]: rank for rank in range(self.size) if rank not in {*answers, *failures}}
            ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for rank in (rank for pipe, rank in waiting.items() if pipe in ready):
                try:
                    succeeded, answer = pickle.loads(self._pipes[rank].recv_bytes())
                except (EOFError, ConnectionResetError):
                    raise self._death() from None
                if succeeded:
                    answers[rank] = answer
                else:
                    failures[rank] = answer
                    deadline = min(deadline, time.monotonic() + GRACE)
        if failures:
            raise next(iter(failures.values()))
        if len(answers) < self.size:
            silent = ", ".join(str(rank) for rank in range(self.size) if rank not in answers)
            raise WorkerError(
                f"ranks {silent} of {self.size} did not answer within {self.timeout:g} s; are they stuck?"
            )
        return [answers[rank] for rank in range(self.size)]

    def _death(self) -> WorkerError:
        """What became of the first worker that died; ends the others."""
        deadline = time.monotonic() + GRACE
        dead = [process for process in self.processes if process.exitcode is not None]
        while not dead and time.monotonic() < deadline:
            connection.wait([process.sentinel for process in self.processes], 0.1)
            dead = [process for process in self.processes if process.exitcode is not None]
        self.close()
        if not dead:
            return WorkerError(f"a worker of {self.size} closed its connection; the next call starts new workers")
        code = dead[0].exitcode
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerError(f"{dead[0].name} {end}; the next call starts new workers")
