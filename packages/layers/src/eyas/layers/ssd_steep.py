"""Heads of the chunked scan that decay too fast within a chunk for row and column factors (see ssd_decay).

Their (token, token) decays are formed one by one.
"""
# B batch, H heads, P head dim, N state, G groups; h the steep heads
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyas.layers.ssd_decay import cut_exp_

if TYPE_CHECKING:
    from eyas.layers.ssd_span import Span


class Steep:
    """The steep heads of a span; a head counts as soon as it is steep in one segment, and is corrected there only."""

    def __init__(self, span: Span, steep_ZLBH: Tensor) -> None:
        self.span = span
        steep_H = steep_ZLBH.flatten(0, 2).any(0)
        heads = steep_H.nonzero()[:, 0]
        self.groups, self.within = heads // span.R, heads % span.R
        self.heads: Tensor | slice = slice(None) if steep_H.all() else heads  # of a slice there are views
        here_ZBhL = steep_ZLBH[..., self.heads].permute(0, 2, 3, 1)
        sum_ZBhL = span.decay.sum_ZLBH[..., self.heads].permute(0, 2, 3, 1)
        tile = *sum_ZBhL.shape, span.L
        log_ZBhLM = torch.sub(
            sum_ZBhL[..., :, None], sum_ZBhL[..., None, :], out=span.scratch("wide tile", *tile, dtype=torch.float64)
        )
        decay_ZBhLM = span.scratch("steep decay", *tile).copy_(log_ZBhLM).clamp_(max=0.0)
        self.decay_ZBhLM = cut_exp_(decay_ZBhLM, decay_ZBhLM.dtype)
        self.decay_ZBhLM.masked_fill_(~here_ZBhL[..., None], 0.0)
        self.below_ZBhLM = span.below_QLM.view(span.Z, span.B, span.G, span.L, span.L)[:, :, self.groups]
        self.dt_ZLBh = self.of(span.dt_ZLBGR)
        self.x_ZLBhP = self.of(span.x_ZLBGRP).to(span.x_QLF.dtype)
        self.xdt_ZBhLP = (self.x_ZLBhP * self.dt_ZLBh[..., None]).permute(0, 2, 3, 1, 4)

    def of(self, values_ZLBGRP: Tensor) -> Tensor:
        """The steep heads of (Z, L, B, G, R, ...) as (Z, L, B, h, ...)."""
        return values_ZLBGRP.flatten(3, 4)[:, :, :, self.heads]

    def add(self, target_ZLBGRP: Tensor, values_ZLBhP: Tensor) -> None:
        """Add to the steep heads of `target`, in place."""
        if isinstance(self.heads, slice):
            target_ZLBGRP += values_ZLBhP.unflatten(3, (self.span.G, self.span.R))
        else:
            target_ZLBGRP[:, :, :, self.groups, self.within] += values_ZLBhP

    def clear(self, values_QLF: Tensor) -> None:
        """Zero the steep parts of a result of the products by row and column factors, in place."""
        self.span.by_head(values_QLF).masked_fill_(self.mask_ZLBGR[..., None], 0.0)

    @property
    def mask_ZLBGR(self) -> Tensor:
        steep = self.span.decay.steep_ZLBH
        assert steep is not None
        return steep.unflatten(3, (self.span.G, self.span.R))

    def add_output(self, sums_ZLBGRP: Tensor) -> None:
        """Add what steep tokens see of earlier tokens in their chunk."""
        seen_ZBhLP = torch.matmul(self.seen_ZBhLM, self.xdt_ZBhLP)
        self.add(sums_ZLBGRP, seen_ZBhLP.permute(0, 3, 1, 2, 4))

    def add_dscores(self, dy_ZBhLP: Tensor, dscores_RQLM: Tensor) -> None:
        """Add the gradient that each head's scores got through the tile, in place."""
        span = self.span
        dscores_ZBhLM = torch.matmul(dy_ZBhLP, self.xdt_ZBhLP.mT).mul_(self.decay_ZBhLM)
        target = dscores_RQLM.view(span.R, span.Z, span.B, span.G, span.L, span.L)
        if isinstance(self.heads, slice):
            target += dscores_ZBhLM.unflatten(2, (span.G, span.R)).permute(3, 0, 1, 2, 4, 5)
        else:
            target[self.within, :, :, self.groups] += dscores_ZBhLM.permute(2, 0, 1, 3, 4)

    def add_gradients(self, dy_ZBhLP: Tensor, dx_ZLBGRP: Tensor, ddt_ZLBGR: Tensor) -> None:
        """Add the gradients of x and dt that came through the tile, in place."""
        dxdt_ZLBhP = torch.matmul(self.seen_ZBhLM.mT, dy_ZBhLP).permute(0, 3, 1, 2, 4)
        self.add(dx_ZLBGRP, dxdt_ZLBhP * self.dt_ZLBh[..., None])
        self.add(ddt_ZLBGR, (self.x_ZLBhP * dxdt_ZLBhP).sum(-1))

    @property
    def seen_ZBhLM(self) -> Tensor:
        """The decayed scores."""
        out = self.span.scratch("steep seen", *self.decay_ZBhLM.shape)
        return torch.mul(self.below_ZBhLM, self.decay_ZBhLM, out=out)

    def by_row(self, values_ZLBGRP: Tensor) -> Tensor:
        """The steep heads as (Z, B, h, L, P)."""
        return self.of(values_ZLBGRP).to(self.x_ZLBhP.dtype).permute(0, 2, 3, 1, 4).contiguous()
