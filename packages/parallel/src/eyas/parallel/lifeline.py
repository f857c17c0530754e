"""A process that ends when the one that started it does, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends to this process when its parent is gone."""


def end_with_parent(parent: int) -> None:
    """From now on this process is killed when `parent`, the process that started it, ends, even by SIGKILL, which a
    parent cannot pass on. Exits at once where the parent is gone already.

    Linux alone; it holds for the thread that started this process, which must live as long as it should.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
