"""A process group of one, for what Megatron-Core only does inside a job: loading a checkpoint, say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from eyas.parallel import groups
from eyas.parallel.layout import Layout


@contextmanager
def alone() -> Iterator[None]:
    """Makes this process a job of one while it lasts; a process that is part of a job already must not call it."""
    assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        groups.initialise(Layout())
        yield
    finally:
        groups.finish()
