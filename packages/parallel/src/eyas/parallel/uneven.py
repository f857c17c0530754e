"""Gathering and scattering parts of different sizes, which gloo does not offer: parts are padded to the greatest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Collective = Callable[..., Tensor]


def padded_gather(gather: Collective) -> Collective:
    """Megatron-Core's `gather(x, group, sizes, use_global_buffer)` along the first dimension, on equal parts alone."""

    @functools.wraps(gather)
    def call(x: Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: bool = False) -> Tensor:
        if sizes is None or group.size() == 1:
            return gather(x, group, None, use_global_buffer)
        parts = gather(_grown(x, max(sizes)), group, None, use_global_buffer).unflatten(0, (len(sizes), max(sizes)))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    return call


def padded_reduce_scatter(reduce_scatter: Collective) -> Collective:
    """Megatron-Core's `reduce_scatter(x, group, sizes, use_global_buffer)`, on equal parts alone."""

    @functools.wraps(reduce_scatter)
    def call(x: Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: bool = False) -> Tensor:
        if sizes is None or group.size() == 1:
            return reduce_scatter(x, group, None, use_global_buffer)
        equal = torch.cat([_grown(part, max(sizes)) for part in x.split(list(sizes))])
        return reduce_scatter(equal, group, None, use_global_buffer)[: sizes[group.rank()]]

    return call


def _grown(x: Tensor, rows: int) -> Tensor:
    """x with zeros behind its rows, `rows` in all."""
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, rows - len(x)))
