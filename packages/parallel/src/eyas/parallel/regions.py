"""Named stretches of work in a trace of torch's profiler; where no trace is made, nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.autograd import profiler

NOTHING: AbstractContextManager[object] = nullcontext()


def region(name: str) -> AbstractContextManager[object]:
    """What is done inside bears `name` in a trace, if one is being made."""
    return profiler.record_function(name) if profiler._is_profiler_enabled else NOTHING
