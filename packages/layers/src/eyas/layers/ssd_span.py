"""A few chunks of the chunked scan: their operands in the layout of the matrix products, decays and scores."""
# S sequence, B batch, H heads, P head dim, N state, G groups
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

import torch
from torch import Tensor

from eyas.layers.ssd_decay import Decay, Segments
from eyas.layers.ssd_steep import Steep


class Span:
    """What forward and backward both need; the scores are those below the diagonal, which has no decay."""

    def __init__(
        self,
        tokens: slice,
        length: int,
        x_SBHP: Tensor,
        dt_SBH: Tensor,
        A_H: Tensor,
        B_SBGN: Tensor,
        C_SBGN: Tensor,
        D_H: Tensor,
        starts_SB: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.tokens, self.L = tokens, length
        self.G, self.N = B_SBGN.shape[2:]
        self.x_ZLBGRP = self.heads(x_SBHP)
        self.Z, _, self.B, _, self.R, self.P = self.x_ZLBGRP.shape
        self.A_GR = A_H.to(dtype).view(self.G, self.R)
        self.dt_ZLBGR = self.heads(dt_SBH).to(dtype)
        self.segments = None if starts_SB is None else Segments.of(self.part(starts_SB))
        self.decay = decay = Decay.of(self.part(dt_SBH), A_H, self.segments, dtype)
        self.row_ZLBGR, self.col_ZLBGR = (t.unflatten(3, (self.G, self.R)) for t in (decay.row_ZLBH, decay.col_ZLBH))
        self.scale_ZLBGR = self.col_ZLBGR * self.dt_ZLBGR

        self.x_QLF = self.by_group(self.x_ZLBGRP, self.scale_ZLBGR)
        self.B_QLN, self.C_QLN = (
            self.part(t).to(dtype).permute(0, 2, 3, 1, 4).reshape(-1, self.L, self.N) for t in (B_SBGN, C_SBGN)
        )
        self.B_write_QLN, self.C_read_QLN = self.B_QLN, self.C_QLN
        if self.segments is not None:
            self.B_write_QLN, self.C_read_QLN = self.writing(self.B_QLN.clone()), self.reading(self.C_QLN.clone())
        scores_QLM = torch.bmm(self.C_QLN, self.B_QLN.mT)
        diagonal_ZBGL = scores_QLM.diagonal(dim1=1, dim2=2).clone().view(self.Z, self.B, self.G, self.L)
        self.diagonal_ZLBG1 = diagonal_ZBGL.permute(0, 3, 1, 2)[..., None]
        self.skip_ZLBGR = torch.addcmul(D_H.to(dtype).view(self.G, self.R), self.diagonal_ZLBG1, self.dt_ZLBGR)
        self.below_QLM = self.mask(scores_QLM)
        self.steep = Steep(self, decay.steep_ZLBH) if decay.steep_ZLBH is not None else None

    def part(self, values: Tensor) -> Tensor:
        """The span's share of a sequence, (S, ...) to (Z, L, ...)."""
        return values[self.tokens].unflatten(0, (-1, self.L))

    def heads(self, values: Tensor) -> Tensor:
        """The span's share of a sequence with heads, (S, B, H, ...) to (Z, L, B, G, R, ...)."""
        return self.part(values).unflatten(3, (self.G, -1))

    def by_group(self, values_ZLBGRP: Tensor, scale_ZLBGR: Tensor) -> Tensor:
        """values * scale in the layout of the matrix products."""
        out = scale_ZLBGR.new_empty(self.Z, self.B, self.G, self.L, self.R, self.P)
        torch.mul(values_ZLBGRP, scale_ZLBGR[..., None], out=out.permute(0, 3, 1, 2, 4, 5))
        return out.view(-1, self.L, self.R * self.P)

    def by_token(self, values_QLN: Tensor) -> Tensor:
        """A view (Z, L, B, G, N) of a matrix product's result."""
        return values_QLN.view(self.Z, self.B, self.G, self.L, -1).permute(0, 3, 1, 2, 4)

    def by_head(self, values_QLF: Tensor) -> Tensor:
        """A view (Z, L, B, G, R, P) of a matrix product's result."""
        return self.by_token(values_QLF).unflatten(4, (self.R, self.P))

    def mask(self, values_QLM: Tensor) -> Tensor:
        """Clear, in place, all but what lies below the diagonal and within a document."""
        values_QLM.tril_(-1)
        if self.segments is not None:
            values = values_QLM.view(self.Z, self.B, self.G, self.L, self.L)
            values.masked_fill_(~self.segments.same_ZBLM[:, :, None], 0.0)
        return values_QLM

    def reading(self, values_QLN: Tensor) -> Tensor:
        """Clear, in place, the tokens that do not read the state from before their chunk."""
        return values_QLN if self.segments is None else self._keep(values_QLN, self.segments.reads_ZBL)

    def writing(self, values_QLN: Tensor) -> Tensor:
        """Clear, in place, the tokens that do not reach the state after their chunk."""
        return values_QLN if self.segments is None else self._keep(values_QLN, self.segments.writes_ZBL)

    def _keep(self, values_QLN: Tensor, kept_ZBL: Tensor) -> Tensor:
        values = values_QLN.view(self.Z, self.B, self.G, self.L, -1)
        return values.masked_fill_(~kept_ZBL[:, :, None, :, None], 0.0).view_as(values_QLN)

    def pass_states(self, state_BGNF: Tensor, new_ZBGNF: Tensor, entered_ZBGNF: Tensor) -> Tensor:
        """Carry the state from chunk to chunk: fills what enters each chunk, returns the state after the last."""
        enter, leave, carry = self._state_factors()
        state = state_BGNF
        for z in range(self.Z):
            entered, left = entered_ZBGNF[z], new_ZBGNF[z]
            torch.mul(state, enter[z], out=entered)
            left = left.add_(entered) if carry is None else left.addcmul_(entered, carry[z])
            state = left.mul_(leave[z])
        return state

    def pass_back(
        self, dstate_BGNF: Tensor, leaving_BGR: Tensor, dnew_ZBGNF: Tensor, entered_ZBGNF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Carry the state's gradient back. `dnew` comes in as what reading gives the entered states, goes out as the
        gradient of what each chunk adds. Returns the gradient of the state before the span, `leaving` of each chunk and
        of that state (see `backward_span`)."""
        enter, leave, carry = self._state_factors()
        leaving_ZBGR = leaving_BGR.new_empty(self.Z, self.B, self.G, self.R)
        dstate = dstate_BGNF
        for z in reversed(range(self.Z)):
            leaving_ZBGR[z] = leaving_BGR
            dleft = dstate * leave[z]
            dentered = dnew_ZBGNF[z].add(dleft) if carry is None else torch.addcmul(dnew_ZBGNF[z], dleft, carry[z])
            dnew_ZBGNF[z] = dleft
            leaving_BGR = (dentered * entered_ZBGNF[z]).sum(2).unflatten(-1, (self.R, self.P)).sum(-1)
            dstate = dentered.mul_(enter[z])
        return dstate, leaving_ZBGR, leaving_BGR

    def _state_factors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """enter, leave and carry as (Z, B, G, 1, F)."""
        decay = self.decay

        def wide(factor_ZBH: Tensor) -> Tensor:
            return factor_ZBH.repeat_interleave(self.P, dim=-1).view(self.Z, self.B, self.G, 1, -1)

        return wide(decay.enter_ZBH), wide(decay.leave_ZBH), None if decay.carry_ZBH is None else wide(decay.carry_ZBH)
