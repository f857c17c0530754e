"""A few numbers of each rank, on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from eyas.parallel.this_rank import device_here


def over_ranks(numbers: Sequence[float]) -> Tensor:
    """The numbers (N) that each of the ranks calls this with, as (ranks, N) float64 in the host's memory."""
    ranks = dist.get_world_size()
    here = torch.tensor(numbers, dtype=torch.float64)
    if ranks == 1:
        return here[None]
    everyone = torch.empty(ranks * len(numbers), dtype=torch.float64, device=device_here())
    dist.all_gather_into_tensor(everyone, here.to(everyone.device))
    return everyone.view(ranks, -1).cpu()
