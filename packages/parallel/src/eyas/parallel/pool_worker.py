"""The worker's side of `pool`: joins the world, then runs what it is sent."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from eyas.core.errors import WorkerError
from eyas.parallel import quiet


def packed(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """A call, ready to send: how to import the function's module, and the pickled function and arguments."""
    module = sys.modules[function.__module__]
    return pickle.dumps((sys.path, module.__name__, getattr(module, "__file__", None), pickle.dumps((function, args))))


def serve(pipe: Connection, rank: int, size: int, port: int) -> None:
    """Answers calls until the caller hangs up. A call's answer is (True, result) or (False, exception)."""
    _join_world(rank, size, port)
    try:
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes(), rank, size))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # nobody listens any more, and peers may be gone: no farewell over the network


def _join_world(rank: int, size: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    quiet.install()
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))


def _answer(call: bytes, rank: int, size: int) -> bytes:
    try:
        sys.path[:], module, file, inner = pickle.loads(call)
        _load(module, file)
        function, args = pickle.loads(inner)
        return pickle.dumps((True, function(*args)))
    except BaseException as error:  # whatever it is, it belongs to the caller
        note = f"on rank {rank} of {size}:\n{traceback.format_exc()}"
        return _packed_failure(error, note)


def _packed_failure(error: BaseException, note: str) -> bytes:
    error.add_note(note)
    try:
        failure = pickle.dumps((False, error))
        pickle.loads(failure)
    except Exception:  # an exception class may refuse to be pickled in any way it likes
        failure = pickle.dumps((False, WorkerError(f"{type(error).__name__}: {error}\n{note}")))
    return failure


def _load(name: str, file: str | None) -> None:
    """Imports the module that a call names; from its file where its name is not on the path, as pytest may have it."""
    if name in sys.modules or name == "__main__":
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or not name.startswith(str(error.name)):
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
