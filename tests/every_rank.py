"""What every rank of a pool returns, where the pool hands back what one does."""

from collections.abc import Callable
from typing import Any


def all_here(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """One rank's part: `function` on every rank, by rank."""
    import torch.distributed as dist

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, function(*arguments))
    return everyone
