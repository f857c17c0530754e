"""Heads of the chunked scan that decay too fast within a chunk for row and column factors (see ssd_decay).

Their (token, token) decays are formed one by one. Rows and columns of the same masked product give the gradient of the
log decay, so that what cancels between the two cancels exactly.
"""
# B batch, H heads, P head dim, N state, G groups; h the steep heads
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyas.layers.ssd_decay import cut_exp, sum_before, sum_from

if TYPE_CHECKING:
    from eyas.layers.ssd_span import Span


class Steep:
    """The steep heads of a span; a head counts as soon as it is steep in one segment, and is corrected there only."""

    def __init__(self, span: Span, steep_ZLBH: Tensor) -> None:
        self.span = span
        self.heads = steep_ZLBH.flatten(0, 2).any(0).nonzero()[:, 0]
        self.groups = self.heads // span.R
        self.here_ZLBh = steep_ZLBH[..., self.heads]
        sum_ZBhL = span.decay.sum_ZLBH[..., self.heads].permute(0, 2, 3, 1)
        decay_ZBhLM = cut_exp((sum_ZBhL[..., :, None] - sum_ZBhL[..., None, :]).to(span.x_QLF.dtype).clamp_(max=0.0))
        decay_ZBhLM.masked_fill_(~self.here_ZLBh.permute(0, 2, 3, 1)[..., None], 0.0)
        self.decay_ZBhLM = decay_ZBhLM
        self.below_ZBhLM = span.below_QLM.view(span.Z, span.B, span.G, span.L, span.L)[:, :, self.groups]
        self.dt_ZLBh = self.of(span.dt_ZLBGR)
        self.x_ZLBhP = self.of(span.x_ZLBGRP).to(span.x_QLF.dtype)
        self.xdt_ZBhLP = (self.x_ZLBhP * self.dt_ZLBh[..., None]).permute(0, 2, 3, 1, 4)

    def of(self, values_ZLBGRP: Tensor) -> Tensor:
        """The steep heads of (Z, L, B, G, R, ...) as (Z, L, B, h, ...); a copy."""
        return values_ZLBGRP.flatten(3, 4)[:, :, :, self.heads]

    def add(self, target_ZLBGRP: Tensor, values_ZLBhP: Tensor) -> None:
        """Add to the steep heads of `target`, in place."""
        groups, within = self.groups, self.heads % self.span.R
        target_ZLBGRP[:, :, :, groups, within] += values_ZLBhP

    def clear(self, values_QLF: Tensor) -> None:
        """Zero the steep parts of a result of the products by row and column factors, in place."""
        self.span.by_head(values_QLF).masked_fill_(self.mask_ZLBGR[..., None], 0.0)

    @property
    def mask_ZLBGR(self) -> Tensor:
        steep = self.span.decay.steep_ZLBH
        assert steep is not None
        return steep.unflatten(3, (self.span.G, self.span.R))

    def add_output(self, decayed_ZLBGRP: Tensor) -> None:
        """Add what steep tokens see of earlier tokens in their chunk."""
        seen_ZBhLP = torch.matmul(self.below_ZBhLM * self.decay_ZBhLM, self.xdt_ZBhLP)
        self.add(decayed_ZLBGRP, seen_ZBhLP.permute(0, 3, 1, 2, 4))

    def add_gradients(
        self,
        dy_ZLBGRP: Tensor,
        entered_ZBGNF: Tensor,
        dnew_ZBGNF: Tensor,
        dscale_ZLBGR: Tensor,
        dscores_QLM: Tensor,
        dx_ZLBGRP: Tensor,
        ddt_ZLBGR: Tensor,
        dlog_ZLBGR: Tensor,
    ) -> None:
        """Add the gradients that came through the tile; replace the gradient of the log decay where steep."""
        span = self.span
        dy_ZBhLP = self.of(dy_ZLBGRP).to(self.x_ZLBhP.dtype).permute(0, 2, 3, 1, 4)
        ddecayed_ZBhLM = torch.matmul(dy_ZBhLP, self.xdt_ZBhLP.mT) * self.decay_ZBhLM
        seen_ZBhLM = self.below_ZBhLM * self.decay_ZBhLM
        dxdt_ZLBhP = torch.matmul(seen_ZBhLM.mT, dy_ZBhLP).permute(0, 3, 1, 2, 4)
        dscores = dscores_QLM.view(span.Z, span.B, span.G, span.L, span.L)
        dscores.index_add_(2, self.groups, ddecayed_ZBhLM)
        span.mask(dscores_QLM)
        self.add(dx_ZLBGRP, dxdt_ZLBhP * self.dt_ZLBh[..., None])
        self.add(ddt_ZLBGR, (self.x_ZLBhP * dxdt_ZLBhP).sum(-1))

        # The log decay: tile rows and columns, the state that is read, the tokens that are written, the state kept.
        tile_ZBhLM = ddecayed_ZBhLM * self.below_ZBhLM
        rows_ZBhL, columns_ZBhL = (tile_ZBhLM.sum(dim, dtype=torch.float64) for dim in (-1, -2))
        tile_ZLBh = (rows_ZBhL - columns_ZBhL).permute(0, 3, 1, 2)
        read_ZLBh = torch.matmul(self._group(span.C_read_QLN), self._states(entered_ZBGNF)).permute(0, 3, 1, 2, 4)
        read_ZLBh = (read_ZLBh * self.of(dy_ZLBGRP)).sum(-1) * self.of(span.row_ZLBGR)
        written_ZLBh = self.of(dscale_ZLBGR * span.scale_ZLBGR)
        kept_ZBh = (self._states(entered_ZBGNF) * self._states(dnew_ZBGNF)).sum((-2, -1))
        assert span.decay.carry_ZBH is not None
        kept_ZBh = kept_ZBh * span.decay.carry_ZBH[..., self.heads]
        dlog = sum_from(tile_ZLBh + read_ZLBh, span.segments) + sum_before(written_ZLBh, span.segments)
        dlog = torch.where(self.here_ZLBh, dlog + kept_ZBh[:, None], self.of(dlog_ZLBGR))
        dlog_ZLBGR[:, :, :, self.groups, self.heads % span.R] = dlog

    def _group(self, values_QLN: Tensor) -> Tensor:
        return values_QLN.view(self.span.Z, self.span.B, self.span.G, self.span.L, -1)[:, :, self.groups]

    def _states(self, states_ZBGNF: Tensor) -> Tensor:
        """The steep heads' states, (Z, B, h, N, P)."""
        span = self.span
        states = states_ZBGNF.unflatten(-1, (span.R, span.P)).transpose(3, 4).flatten(2, 3)
        return states[:, :, self.heads]
