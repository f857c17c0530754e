"""A few chunks of the chunked scan: their operands in the layout of the matrix products, decays and scores."""
# S sequence, B batch, H heads, P head dim, N state, G groups
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eyas.layers.scratch import scratch
from eyas.layers.ssd_decay import Decay, Segments
from eyas.layers.ssd_steep import Steep


class Operands(NamedTuple):
    """A span's views of the sequence and its decays; D is zero where there is none."""

    x_ZLBGRP: Tensor
    dt_ZLBGR: Tensor
    A_GR: Tensor
    B_ZLBGN: Tensor
    C_ZLBGN: Tensor
    D_GR: Tensor
    segments: Segments | None
    decay: Decay


class Span:
    """What forward and backward both need; the scores are those below the diagonal, which has no decay."""

    def __init__(self, operands: Operands) -> None:
        self.x_ZLBGRP, dt_ZLBGR, A_GR, B_ZLBGN, C_ZLBGN, D_GR, self.segments, self.decay = operands
        self.Z, self.L, self.B, self.G, self.R, self.P = self.x_ZLBGRP.shape
        decay, dtype = self.decay, self.decay.row_ZLBH.dtype
        self.A_GR, self.dt_ZLBGR = A_GR.to(dtype), dt_ZLBGR.to(dtype)
        self.row_ZLBGR, self.col_ZLBGR = (t.unflatten(3, (self.G, self.R)) for t in (decay.row_ZLBH, decay.col_ZLBH))
        self.scale_ZLBGR = self.col_ZLBGR * self.dt_ZLBGR

        self.x_QLF = self.by_group("x", self.x_ZLBGRP, self.scale_ZLBGR)
        self.B_QLN, self.C_QLN = (
            t.to(dtype).permute(0, 2, 3, 1, 4).reshape(-1, self.L, t.shape[-1]) for t in (B_ZLBGN, C_ZLBGN)
        )
        self.B_write_QLN, self.C_read_QLN = self.B_QLN, self.C_QLN
        if self.segments is not None:
            self.B_write_QLN, self.C_read_QLN = self.writing(self.B_QLN.clone()), self.reading(self.C_QLN.clone())
        scores_QLM = torch.bmm(self.C_QLN, self.B_QLN.mT)
        diagonal_ZBGL = scores_QLM.diagonal(dim1=1, dim2=2).clone().view(self.Z, self.B, self.G, self.L)
        self.diagonal_ZLBG1 = diagonal_ZBGL.permute(0, 3, 1, 2)[..., None]
        self.skip_ZLBGR = torch.addcmul(D_GR.to(dtype), self.diagonal_ZLBG1, self.dt_ZLBGR)
        self.below_QLM = self.mask(scores_QLM)
        self.steep = Steep(self, decay.steep_ZLBH) if decay.steep_ZLBH is not None else None

    def scratch(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for an intermediate result of this span; the next span of the same thread takes it over."""
        return scratch(f"ssd {name}", self.dt_ZLBGR, *shape, dtype=dtype)

    def by_group(self, name: str, values_ZLBGRP: Tensor, scale_ZLBGR: Tensor) -> Tensor:
        """values * scale in the layout of the matrix products."""
        out = self.scratch(name, self.Z, self.B, self.G, self.L, self.R, self.P)
        torch.mul(values_ZLBGRP, scale_ZLBGR[..., None], out=out.permute(0, 3, 1, 2, 4, 5))
        return out.view(-1, self.L, self.R * self.P)

    def dot(self, left_ZLBGRP: Tensor, right_ZLBGRP: Tensor) -> Tensor:
        """Scalar products over the head dimension, (Z, L, B, G, R)."""
        products = self.scratch("products", *left_ZLBGRP.shape)
        return torch.mul(left_ZLBGRP, right_ZLBGRP, out=products).sum(-1)

    def products_of_heads(self, left_QLF: Tensor, right_QLF: Tensor) -> Tensor:
        """For each head of a group the products left right^T over its own features, where `mask` leaves any: factors
        of rows and columns are out of bounds elsewhere."""
        out = self.scratch("tile", self.R, left_QLF.shape[0], self.L, self.L)
        for r in range(self.R):
            own = slice(r * self.P, (r + 1) * self.P)
            self.mask(torch.bmm(left_QLF[..., own], right_QLF[..., own].mT, out=out[r]))
        return out

    def rows_and_columns(self, dscores_RQLM: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of scores times their gradient over the earlier and over the later token. They are in float64, so that
        what stands in both cancels where they are subtracted, however much it is. Takes the gradient's memory."""
        wide = self.scratch("wide tile", *dscores_RQLM.shape, dtype=torch.float64)
        wide.copy_(dscores_RQLM.mul_(self.below_QLM))
        sums = (wide.sum(dim) for dim in (-1, -2))
        rows, columns = (t.view(self.R, self.Z, self.B, self.G, self.L).permute(1, 4, 2, 3, 0) for t in sums)
        return rows, columns

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
        enter, between, leave, carry = self._state_factors()
        torch.mul(state_BGNF, enter, out=entered_ZBGNF[0])
        after = self.scratch("state", *state_BGNF.shape)
        for z in range(self.Z):
            last = z + 1 == self.Z
            left = after if last else entered_ZBGNF[z + 1]
            if carry is None:
                torch.add(new_ZBGNF[z], entered_ZBGNF[z], out=left)
            else:
                torch.addcmul(new_ZBGNF[z], entered_ZBGNF[z], carry[z], out=left)
            left.mul_(leave if last else between[z])
        return after

    def pass_back(
        self, dstate_BGNF: Tensor, dentered_ZBGNF: Tensor, entered_ZBGNF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Carry the state's gradient back. `dentered` comes in as what the entered states get from being read.

        Returns the gradient of what each chunk adds, that of the state before the span, and that of the log of what
        each chunk keeps of the state that enters it.
        """
        enter, between, leave, carry = self._state_factors()
        dnew_ZBGNF = self.scratch("dnew", *dentered_ZBGNF.shape)
        torch.mul(dstate_BGNF, leave, out=dnew_ZBGNF[-1])
        for z in reversed(range(self.Z)):
            if carry is None:
                dentered_ZBGNF[z] += dnew_ZBGNF[z]
            else:
                dentered_ZBGNF[z].addcmul_(dnew_ZBGNF[z], carry[z])
            if z:
                torch.mul(dentered_ZBGNF[z], between[z - 1], out=dnew_ZBGNF[z - 1])
        products = torch.mul(dnew_ZBGNF, entered_ZBGNF, out=self.scratch("products", *dentered_ZBGNF.shape))
        if carry is not None:
            products *= carry
        kept_ZBGR = products.sum(3).unflatten(-1, (self.R, self.P)).sum(-1)
        before = torch.mul(dentered_ZBGNF[0], enter, out=self.scratch("state", *dstate_BGNF.shape))
        return dnew_ZBGNF, before, kept_ZBGR

    def _state_factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What scales a state before the first chunk, between chunks, after the last; and carry. (Z,) B, G, 1, F."""
        decay = self.decay

        def wide(factor: Tensor) -> Tensor:
            return factor.repeat_interleave(self.P, dim=-1).view(*factor.shape[:-1], self.G, 1, self.R * self.P)

        between = decay.leave_ZBH[:-1] * decay.enter_ZBH[1:]
        carry = None if decay.carry_ZBH is None else wide(decay.carry_ZBH)
        return wide(decay.enter_ZBH[0]), wide(between), wide(decay.leave_ZBH[-1]), carry
