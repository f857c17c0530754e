"""Decay factors for the chunked scan, split so that no decay of a pair of tokens is formed and none overflows.

With a the running sum of dt A, token i sees token j through exp(a_i - a_j) = row_i col_j, where row = exp(a - m),
col = exp(m - a) and m is half of the chunk's sum. That is safe while the chunk's sum stays above -2 SPREAD; a head that
decays faster within a chunk is `steep` there and gets its decays pair by pair in `ssd_steep`.
"""
# S sequence, B batch, H heads; Z chunks, L token in a chunk, M an earlier token in the same chunk

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CUT = {torch.float32: 40.0, torch.float64: 100.0}
"""A decay beyond exp(-CUT) is exactly zero, as denormals slow a CPU down a hundredfold; what decays are multiplied by
may be small too. It is beneath every rounding where the state before was less than 1e10 times as large as what is
written now, in float64 1e27 times."""

SPREAD = 40.0
"""Row and column factors lie within exp(+-SPREAD); the product of two keeps clear of float32's ends, exp(+-87)."""

STEP = 200.0
"""The log decay of one token is not followed further than this, beyond every cut, so that sums stay exact."""


@dataclass(frozen=True)
class Segments:
    """How documents cut the chunks of a span: within a chunk, tokens see only those of their own segment."""

    same_ZBLM: Tensor
    reads_ZBL: Tensor
    """True where the token's document began before the chunk, so that it reads the state from before."""
    writes_ZBL: Tensor
    """True where the token's document lasts to the end of the chunk, so that the token goes into the next state."""

    @classmethod
    def of(cls, starts_ZLB: Tensor) -> Segments | None:
        if not starts_ZLB.any():
            return None
        number_ZBL = starts_ZLB.cumsum(1).transpose(1, 2)
        same = number_ZBL[..., :, None] == number_ZBL[..., None, :]
        return cls(same, number_ZBL == 0, number_ZBL == number_ZBL[..., -1:])

    @property
    def carries_ZB(self) -> Tensor:
        """True where no document begins in the chunk."""
        return self.reads_ZBL[..., -1]


@dataclass(frozen=True)
class Decay:
    """Factors of a span's chunks. States: entered = state * enter; next state = (entered * carry + new) * leave."""

    sum_ZLBH: Tensor
    """Log decay from the segment's start up to and with the token, in float64."""
    row_ZLBH: Tensor
    col_ZLBH: Tensor
    enter_ZBH: Tensor
    leave_ZBH: Tensor
    carry_ZBH: Tensor | None
    """None where it would be one throughout."""
    steep_ZLBH: Tensor | None
    """Where a segment decays too fast to be split; None where there is none."""

    @classmethod
    def of(cls, dt_ZLBH: Tensor, A_H: Tensor, segments: Segments | None, dtype: torch.dtype) -> Decay:
        log_ZLBH = (dt_ZLBH.double() * A_H.double()).clamp_(min=-STEP)
        if segments is None:
            sum_ZLBH = log_ZLBH.cumsum(1)
            total_ZLBH = sum_ZLBH[:, -1:]
        else:  # products with zeros, so that no bit of a document depends on another
            same = segments.same_ZBLM.double()
            sum_ZLBH, total_ZLBH = within(same.tril(), log_ZLBH), within(same, log_ZLBH)
        steep = total_ZLBH < -2 * SPREAD
        from_middle = (sum_ZLBH - total_ZLBH / 2).clamp_(-SPREAD, SPREAD)
        row, col = from_middle.exp(), from_middle.neg().exp()
        first_middle, leave = (total_ZLBH[:, 0] / 2).clamp_(min=-SPREAD), row[:, -1]
        enter, carry, any_steep = first_middle.exp(), None, bool(steep.any())
        if any_steep:
            row = torch.where(steep, cut_exp(sum_ZLBH, dtype), row)
            col = torch.where(steep, cut_exp(total_ZLBH - sum_ZLBH, dtype), col)
            enter, leave = torch.where(steep[:, 0], 1.0, enter), torch.where(steep[:, -1], 1.0, leave)
            carry = torch.where(steep[:, -1], cut_exp(total_ZLBH[:, -1], dtype), 1.0).to(dtype)
        if segments is not None:
            carries = segments.carries_ZB[..., None].to(dtype).expand_as(enter)
            carry = carries if carry is None else carry * carries
        row, col, enter, leave = (t.to(dtype) for t in (row, col, enter, leave))
        return cls(sum_ZLBH, row, col, enter, leave, carry, steep.expand_as(row) if any_steep else None)


def cut_exp(log: Tensor, dtype: torch.dtype) -> Tensor:
    """exp, exactly zero below the cut of `dtype`, which is what the result will be used in."""
    return cut_exp_(log.clone(), dtype)


def cut_exp_(log: Tensor, dtype: torch.dtype) -> Tensor:
    """The same, in place; the argument is clamped first because exp itself crawls where it underflows."""
    beyond = log < -CUT[dtype]
    return log.clamp_(min=-CUT[dtype]).exp_().masked_fill_(beyond, 0.0)


def within(mask_ZBLM: Tensor, values_ZLBH: Tensor) -> Tensor:
    """For each token the sum of `values` over those of its chunk that the mask lets it see; heads may be (G, R)."""
    sums_ZBLH = torch.matmul(mask_ZBLM, values_ZLBH.flatten(3).transpose(1, 2))
    return sums_ZBLH.transpose(1, 2).view_as(values_ZLBH)


def sum_from(values_ZLBH: Tensor, segments: Segments | None) -> Tensor:
    """For each token the sum of `values` from it to the end of its segment, in float64."""
    if segments is None:
        return values_ZLBH.double().flip(1).cumsum(1).flip(1)
    return within(segments.same_ZBLM.double().triu(), values_ZLBH.double())


def sum_before(values_ZLBH: Tensor, segments: Segments | None) -> Tensor:
    """For each token the sum of `values` over the tokens before it in its segment, in float64."""
    values = values_ZLBH.double()
    if segments is None:
        return values.cumsum(1) - values
    return within(segments.same_ZBLM.double().tril(-1), values)
