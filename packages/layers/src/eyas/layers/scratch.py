"""Memory for intermediate results that a CPU kernel fills again and again.

Blocks of a megabyte go back to the operating system when freed, and fetching their pages anew costs four times the
arithmetic done on them. So each thread keeps a few, as large as the largest use so far.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_kept = threading.local()


def scratch(name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory, contiguous, valid until the next request of that name in the same thread.

    Only plain CPU tensors share memory; for others (a GPU has its own cache) this is `like.new_empty`, as it is for
    the compiler, which plans memory itself.
    """
    dtype = dtype or like.dtype
    if torch.compiler.is_compiling() or type(like) is not Tensor or like.device.type != "cpu":
        return like.new_empty(shape, dtype=dtype)
    size, key, buffers = math.prod(shape), f"{name} {dtype}", vars(_kept)
    buffer: Tensor | None = buffers.get(key)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):
            buffer = buffers[key] = torch.empty(size, dtype=dtype)
    return buffer[:size].view(shape)


def release() -> None:
    """Give this thread's memory back."""
    vars(_kept).clear()
