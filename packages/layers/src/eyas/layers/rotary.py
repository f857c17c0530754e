"""Rotary position embedding (Su et al., 2021), halves rotated against each other."""

# S sequence, B batch, H heads, P head dim

from functools import lru_cache

import torch
from torch import Tensor

from eyas.layers.rope_scaling import RopeScaling


@lru_cache(maxsize=32)
def rotation(
    first: int,
    length: int,
    head_dim: int,
    base: float,
    dtype: torch.dtype,
    device: torch.device,
    scaling: RopeScaling | None = None,
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles of positions first .. first+length-1, each (S, 1, 1, P/2); one table for all layers."""
    with torch.inference_mode(False):  # a table that was made while generating must serve training too
        frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
        magnitude = 1.0
        if scaling is not None:
            frequency, magnitude = scaling.stretched(frequency, base), scaling.magnitude
        position = torch.arange(first, first + length, dtype=torch.float64, device=device)
        angle = (position[:, None] * frequency)[:, None, None]
        return (magnitude * angle.cos()).to(dtype), (magnitude * angle.sin()).to(dtype)


def rotate(
    x_SBHP: Tensor,
    base: float,
    first: int | tuple[int, ...] = 0,
    channels: int | None = None,
    scaling: RopeScaling | None = None,
) -> Tensor:
    """Rotates the first `channels` (or all) of queries or keys (S, B, H, P) by their positions, from `first` on; pieces
    that stand side by side in the batch have one `first` each."""
    if isinstance(first, tuple):
        pieces = zip(x_SBHP.chunk(len(first), dim=1), first, strict=True)
        return torch.cat([rotate(piece, base, begins, channels, scaling) for piece, begins in pieces], dim=1)
    wide = torch.promote_types(x_SBHP.dtype, torch.float32)
    x, channels = x_SBHP.to(wide), x_SBHP.shape[-1] if channels is None else channels
    cos, sin = rotation(first, x.shape[0], channels, base, wide, x.device, scaling)
    low, high = x[..., :channels].chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin, x[..., channels:]], dim=-1).to(x_SBHP.dtype)


def paired(x_SBHP: Tensor) -> Tensor:
    """Channels (0, 1), (2, 3), ... brought to where `rotate` turns them against each other, P/2 apart."""
    return torch.cat([x_SBHP[..., 0::2], x_SBHP[..., 1::2]], dim=-1)
