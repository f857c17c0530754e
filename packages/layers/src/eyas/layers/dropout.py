"""Dropout that no layout changes: which numbers fall away follows from the run's seed, the sample, the position, the
block and the channel, through a hash (SplitMix64: Steele, Lea and Flood, 2014)."""

# S sequence, s this rank's part of it, B batch, D hidden

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.layers.initial import seed_of
from eyas.parallel.context import Context

BITS = 31
"""Of a hash that are compared with the rate."""
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""SplitMix64's step, odd, so that its multiples are all different; as int64."""
FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
SHIFTS = 30, 27, 31


def token_seeds(seed: int, first_sample: int, rows: int, length: int) -> Tensor:
    """A seed for each token of a batch (B, S), int64: of samples that a run has not seen before, `rows` from
    `first_sample` on."""
    samples_B = hashed(torch.arange(first_sample, first_sample + rows) + seed_of(seed, "dropout"))
    return hashed(samples_B[:, None] + torch.arange(length) * GOLDEN)


@dataclass(frozen=True)
class Dropout:
    """What blocks write in a forward pass, with a share `rate` of it at zero and the rest scaled up."""

    rate: float
    seeds_sB: Tensor | None
    """Of this rank's tokens; None where nothing falls away, in evaluation and decoding."""

    @staticmethod
    def here(rate: float, seeds_BS: Tensor | None, meta_tokens: int, context: Context) -> Dropout:
        """For a microbatch of whole rows, whose seeds are (B, S), behind some meta tokens."""
        if not rate or seeds_BS is None:
            if rate and torch.is_grad_enabled():
                raise ConfigError(f"dropout={rate} needs seeds of the tokens when training; see dropout.token_seeds")
            return Dropout(rate, None)
        front_BM = seeds_BS[:, :1] - torch.arange(meta_tokens, 0, -1, device=seeds_BS.device)
        seeds_SB = context.own(torch.cat([front_BM, seeds_BS], 1)).t()
        return Dropout(rate, seeds_SB.chunk(context.shards)[context.place.tensor_rank % context.shards])

    def __call__(self, block: int, x_sBD: Tensor) -> Tensor:
        """What block number `block` writes, x: (s, B, D)."""
        if self.seeds_sB is None:
            return x_sBD
        result: Tensor = _Drop.apply(x_sBD, self.seeds_sB, block, self.rate)
        return result


class _Drop(torch.autograd.Function):
    """Keeps nothing but the seeds: the backward pass hashes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seeds: Tensor, block: int, rate: float) -> Tensor:
        ctx.save_for_backward(seeds)
        ctx.block, ctx.rate = block, rate
        return dropped(x, seeds, block, rate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (seeds,) = ctx.saved_tensors
        return dropped(gradient, seeds, ctx.block, ctx.rate), None, None, None


def dropped(x_sBD: Tensor, seeds_sB: Tensor, block: int, rate: float) -> Tensor:
    """x with a share of its entries at zero and the others divided by the rest."""
    channels_D = torch.arange(x_sBD.shape[-1], device=x_sBD.device) + (block << 32)
    drawn_sBD = hashed(seeds_sB[..., None] ^ hashed(channels_D * GOLDEN)) & (2**BITS - 1)
    return torch.where(drawn_sBD >= round(rate * 2**BITS), x_sBD * (1 / (1 - rate)), 0)


def hashed(numbers: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 numbers, whose products wrap around."""
    for shift, factor in zip(SHIFTS, (*FACTORS, 1), strict=True):
        numbers = (numbers ^ ((numbers >> shift) & (2 ** (64 - shift) - 1))) * factor
    return numbers
