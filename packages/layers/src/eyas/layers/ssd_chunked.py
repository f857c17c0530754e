"""Mamba-2's chunked scan in plain tensor operations, with a backward written by hand: the CPU kernel.

The sequence goes by in spans of a few chunks that fit a cache. Within a chunk every head of a group shares the scores
C B^T (decay is split into factors of row and column, see ssd_decay), so nearly all work is in a few large matrix
products; the log decay's gradient alone takes one for each head.
The backward recomputes rather than saves: it keeps the state that entered each chunk and what each token read of it.
"""
# S sequence, B batch, H heads, P head dim, N state, G groups
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from eyas.layers.ssd_decay import Decay, Segments, sum_before, sum_from
from eyas.layers.ssd_span import Operands, Span

SPAN_ELEMENTS = 1 << 18
"""Elements of x in a span: a megabyte in float32 was fastest among 2^15 to 2^21, on an x86 core with 1 MiB of L2."""


def ssd_chunked(
    x_SBHP: Tensor,
    dt_SBH: Tensor,
    A_H: Tensor,
    B_SBGN: Tensor,
    C_SBGN: Tensor,
    D_H: Tensor | None,
    initial_state_BHPN: Tensor | None,
    starts_SB: Tensor | None,
    chunk_size: int | None = None,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """The scan and its last state; `starts` as in `ssd_sequential`. `compiled` runs it through torch.compile."""
    (B, H, P), N = x_SBHP.shape[1:], B_SBGN.shape[-1]
    dtype = torch.promote_types(x_SBHP.dtype, torch.float32)
    if initial_state_BHPN is None:
        initial_state_BHPN = x_SBHP.new_zeros(B, H, P, N, dtype=dtype)
    if D_H is None:
        D_H = A_H.new_zeros(H)
    scan = ChunkedScan.apply(
        x_SBHP,
        dt_SBH,
        A_H,
        B_SBGN,
        C_SBGN,
        D_H,
        initial_state_BHPN.to(dtype),
        starts_SB,
        chunk_size or best_chunk(N),
        compiled,
    )
    return scan


def best_chunk(N: int) -> int:
    """Measured: a small state is cheap to pass on, and short chunks seldom have steep heads."""
    return 32 if N <= 32 else 64


class ChunkedScan(torch.autograd.Function):
    """The scan as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any,
        x_SBHP: Tensor,
        dt_SBH: Tensor,
        A_H: Tensor,
        B_SBGN: Tensor,
        C_SBGN: Tensor,
        D_H: Tensor,
        initial_BHPN: Tensor,
        starts_SB: Tensor | None,
        chunk: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        (S, B, H, P), (G, N), dtype = x_SBHP.shape, B_SBGN.shape[2:], initial_BHPN.dtype
        y = torch.empty_like(x_SBHP, memory_format=torch.contiguous_format)
        read = torch.empty_like(y, dtype=dtype)
        entered = x_SBHP.new_empty(-(-S // chunk), B, G, N, H // G * P, dtype=dtype)
        state = initial_BHPN.view(B, G, -1, N).transpose(-1, -2)
        for part in parts(S, chunk, B * H * P, G):
            operands = part.operands(x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, starts_SB, dtype)
            run = choose(forward_span, operands, compiled)
            state = run(operands, state, part.heads(y), part.heads(read), entered[part.chunks])
        final = state.transpose(-1, -2).clone(memory_format=torch.contiguous_format).view(B, H, P, N)
        ctx.save_for_backward(x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, starts_SB, read, entered)
        ctx.chunk, ctx.compiled = chunk, compiled
        return y, final

    @staticmethod
    def backward(ctx: Any, dy_SBHP: Tensor, dfinal_BHPN: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B_, C_, D, starts, read, entered = ctx.saved_tensors
        (S, B, H, P), (G, N) = x.shape, B_.shape[2:]
        dx, ddt, dB, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, dt, B_, C_))
        dA, dD = (x.new_zeros(G, H // G, dtype=torch.float64) for _ in range(2))
        dstate = dfinal_BHPN.reshape(B, G, -1, N).transpose(-1, -2)
        for part in reversed(list(parts(S, ctx.chunk, B * H * P, G))):
            operands = part.operands(x, dt, A, B_, C_, D, starts, read.dtype)
            run = choose(backward_span, operands, ctx.compiled)
            dstate = run(
                operands, part.heads(read), entered[part.chunks], part.heads(dy_SBHP), dstate, part.heads(dx),
                part.heads(ddt), part.tokens(dB), part.tokens(dC), dA, dD,
            )  # fmt: skip
        dinitial = dstate.transpose(-1, -2).clone(memory_format=torch.contiguous_format).view(B, H, P, N)
        return dx, ddt, dA.view(H).to(A.dtype), dB, dC, dD.view(H).to(D.dtype), dinitial, None, None, None


@dataclass(frozen=True)
class Part:
    """Where a span lies in the sequence."""

    at: slice
    chunks: slice
    length: int
    """Tokens of a chunk."""
    groups: int

    def tokens(self, values: Tensor) -> Tensor:
        """(S, ...) to (Z, L, ...), a view."""
        return values[self.at].unflatten(0, (-1, self.length))

    def heads(self, values: Tensor) -> Tensor:
        """(S, B, H, ...) to (Z, L, B, G, R, ...), a view."""
        return self.tokens(values).unflatten(3, (self.groups, -1))

    def operands(
        self,
        x_SBHP: Tensor,
        dt_SBH: Tensor,
        A_H: Tensor,
        B_SBGN: Tensor,
        C_SBGN: Tensor,
        D_H: Tensor,
        starts_SB: Tensor | None,
        dtype: torch.dtype,
    ) -> Operands:
        """The span's views of the whole sequence, and its decays."""
        segments = None if starts_SB is None else Segments.of(self.tokens(starts_SB))
        decay = Decay.of(self.tokens(dt_SBH), A_H, segments, dtype)
        A_GR, D_GR = (t.view(self.groups, -1) for t in (A_H, D_H))
        x, dt = self.heads(x_SBHP), self.heads(dt_SBH)
        return Operands(x, dt, A_GR, self.tokens(B_SBGN), self.tokens(C_SBGN), D_GR, segments, decay)


def parts(S: int, chunk: int, width: int, groups: int) -> Iterator[Part]:
    """Runs of chunks that fit a cache; a shorter last chunk is a run of its own."""
    whole = S // chunk
    run = max(1, SPAN_ELEMENTS // (chunk * width))
    for z in range(0, whole, run):
        end = min(z + run, whole)
        yield Part(slice(z * chunk, end * chunk), slice(z, end), chunk, groups)
    if S % chunk:
        yield Part(slice(whole * chunk, S), slice(whole, whole + 1), S % chunk, groups)


def choose(run: Callable[..., Any], operands: Operands, compiled: bool) -> Callable[..., Any]:
    """`run`, compiled on request; spans with steep heads, whose shapes depend on the data, run as they are."""
    return compiled_once(run) if compiled and operands.decay.steep_ZLBH is None else run


@cache
def compiled_once(run: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(run, dynamic=False)


def forward_span(
    operands: Operands, state_BGNF: Tensor, y_ZLBGRP: Tensor, read_ZLBGRP: Tensor, entered_ZBGNF: Tensor
) -> Tensor:
    """Scan a span: fills y, what tokens read of the states that entered, and these; returns the state after."""
    span = Span(operands)
    new_QNF = torch.bmm(span.B_write_QLN.mT, span.x_QLF, out=span.scratch("new", *entered_ZBGNF.flatten(0, 2).shape))
    state = span.pass_states(state_BGNF, new_QNF.view_as(entered_ZBGNF), entered_ZBGNF)
    sums_QLF = torch.bmm(span.C_read_QLN, entered_ZBGNF.flatten(0, 2), out=span.scratch("y", *span.x_QLF.shape))
    sums_ZLBGRP = span.by_head(sums_QLF)
    torch.mul(sums_ZLBGRP, span.row_ZLBGR[..., None], out=read_ZLBGRP)
    torch.bmm(span.below_QLM, span.x_QLF, out=sums_QLF)
    if span.steep:
        span.steep.clear(sums_QLF)
    torch.addcmul(read_ZLBGRP, sums_ZLBGRP, span.row_ZLBGR[..., None], out=sums_ZLBGRP)
    if span.steep:
        span.steep.add_output(sums_ZLBGRP)
    torch.addcmul(sums_ZLBGRP, span.x_ZLBGRP, span.skip_ZLBGR[..., None], out=y_ZLBGRP)
    return state


def backward_span(
    operands: Operands,
    read_ZLBGRP: Tensor,
    entered_ZBGNF: Tensor,
    dy_ZLBGRP: Tensor,
    dstate_BGNF: Tensor,
    dx_ZLBGRP: Tensor,
    ddt_ZLBGR: Tensor,
    dB_ZLBGN: Tensor,
    dC_ZLBGN: Tensor,
    dA_GR: Tensor,
    dD_GR: Tensor,
) -> Tensor:
    """Go back over a span: fills dx, ddt, dB, dC, adds to dA, dD; returns the gradient of the state that entered."""
    # 1. Back through the states.
    span = Span(operands)
    entered_QNF = entered_ZBGNF.flatten(0, 2)
    dy_QLF = span.by_group("dy", dy_ZLBGRP, span.row_ZLBGR)
    dentered_QNF = torch.bmm(span.C_read_QLN.mT, dy_QLF, out=span.scratch("new", *entered_QNF.shape))
    dnew_ZBGNF, dstate, kept_ZBGR = span.pass_back(dstate_BGNF, dentered_QNF.view_as(entered_ZBGNF), entered_ZBGNF)
    dnew_QNF = dnew_ZBGNF.flatten(0, 2)
    dC_QLN = span.reading(torch.bmm(dy_QLF, entered_QNF.mT))
    dB_QLN = span.writing(torch.bmm(span.x_QLF, dnew_QNF.mT))
    dx_QLF = torch.bmm(span.B_write_QLN, dnew_QNF, out=span.scratch("y", *dy_QLF.shape))
    dxs_ZLBGRP = span.by_head(dx_QLF)
    written_ZLBGR = span.dot(span.x_ZLBGRP, dxs_ZLBGRP) * span.scale_ZLBGR

    # 2. Back through the scores below the diagonal, of each head.
    if span.steep:
        span.steep.clear(dy_QLF)
    dx_QLF.baddbmm_(span.below_QLM.mT, dy_QLF)
    dscores_RQLM = span.products_of_heads(dy_QLF, span.x_QLF)
    if span.steep:
        steep_dy = span.steep.by_row(dy_ZLBGRP)
        span.steep.add_dscores(steep_dy, dscores_RQLM)
    dscores_QLM = span.mask(dscores_RQLM.sum(0))

    # 3. The log decay: what passes over a token from before it, in scores, read, written or kept in the state.
    gained_ZLBGR, lost_ZLBGR = span.rows_and_columns(dscores_RQLM)
    dlog_ZLBGR = sum_from(gained_ZLBGR - lost_ZLBGR + span.dot(dy_ZLBGRP, read_ZLBGRP), span.segments)
    dlog_ZLBGR += sum_before(written_ZLBGR, span.segments)
    dlog_ZLBGR += kept_ZBGR[:, None]

    # 4. What each token gets: x, dt, and A and D from it.
    dskip_ZLBGR = span.dot(span.x_ZLBGRP, dy_ZLBGRP)
    ddt = span.dot(span.x_ZLBGRP, dxs_ZLBGRP) * span.col_ZLBGR + span.diagonal_ZLBG1 * dskip_ZLBGR
    dxs_ZLBGRP *= span.scale_ZLBGR[..., None]
    if span.steep:
        span.steep.add_gradients(steep_dy, dxs_ZLBGRP, ddt)
    torch.addcmul(dxs_ZLBGRP, dy_ZLBGRP, span.skip_ZLBGR[..., None], out=dx_ZLBGRP)
    ddt_ZLBGR.copy_(ddt.addcmul(dlog_ZLBGR, span.A_GR))
    dA_GR += (dlog_ZLBGR * span.dt_ZLBGR).sum((0, 1, 2))
    dD_GR += dskip_ZLBGR.sum((0, 1, 2))

    # 5. The scores' diagonal, then B and C.
    diagonal_ZBGL = (dskip_ZLBGR * span.dt_ZLBGR).sum(-1).permute(0, 2, 3, 1)
    dscores_QLM.diagonal(dim1=1, dim2=2).copy_(diagonal_ZBGL.flatten(0, 2))
    dC_ZLBGN.copy_(span.by_token(dC_QLN.baddbmm_(dscores_QLM, span.B_QLN)))
    dB_ZLBGN.copy_(span.by_token(dB_QLN.baddbmm_(dscores_QLM.mT, span.C_QLN)))
    return dstate
