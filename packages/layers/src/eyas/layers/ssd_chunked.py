"""Mamba-2's chunked scan in plain tensor operations, with a backward written by hand: the CPU kernel.

The sequence goes by in spans of a few chunks that fit a cache. Within a chunk every head of a group shares the scores
C B^T (decay is split into factors of row and column, see ssd_decay), so all work is in a few large matrix products.
The backward recomputes rather than saves: it keeps the state that entered each chunk and y without its diagonal.
"""
# S sequence, B batch, H heads, P head dim, N state, G groups
# Z chunks in a span, L token in a chunk, M an earlier one, R heads per group, F = R P features of a group, Q = Z B G

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eyas.layers.ssd_decay import sum_from
from eyas.layers.ssd_span import Span

CHUNK = 64
SPAN_ELEMENTS = 1 << 18


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
        x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, initial_state_BHPN.to(dtype), starts_SB, chunk_size or CHUNK, compiled
    )
    return scan  # type: ignore[no-any-return]


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
        decayed = x_SBHP.new_empty(S, B, H, P, dtype=dtype)
        entered = x_SBHP.new_empty(-(-S // chunk), B, G, N, H // G * P, dtype=dtype)
        state = initial_BHPN.view(B, G, -1, N).transpose(-1, -2)
        for tokens, chunks, length in spans(S, chunk, B * H * P):
            span = Span(tokens, length, x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, starts_SB, dtype)
            state = forward_span(span, state, span.heads(y), span.heads(decayed), entered[chunks])
        final = state.transpose(-1, -2).reshape(B, H, P, N)
        ctx.save_for_backward(x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, starts_SB, decayed, entered, final)
        ctx.chunk, ctx.compiled = chunk, compiled
        return y, final

    @staticmethod
    def backward(ctx: Any, dy_SBHP: Tensor, dfinal_BHPN: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *operands, decayed, entered, final = ctx.saved_tensors
        x, dt, A, B_, C_, D, _ = operands
        (S, B, H, P), (G, N) = x.shape, B_.shape[2:]
        dx, ddt, dB, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, dt, B_, C_))
        dA, dD = (x.new_zeros(G, H // G, dtype=torch.float64) for _ in range(2))
        dstate = dfinal_BHPN.view(B, G, -1, N).transpose(-1, -2)
        leaving = (dfinal_BHPN * final).sum((-2, -1)).view(B, G, -1)
        for tokens, chunks, length in reversed(list(spans(S, ctx.chunk, B * H * P))):
            span = Span(tokens, length, *operands, decayed.dtype)
            dstate, leaving = backward_span(
                span, span.heads(decayed), entered[chunks], span.heads(dy_SBHP), dstate, leaving,
                span.heads(dx), span.heads(ddt), span.part(dB), span.part(dC), dA, dD,
            )  # fmt: skip
        dinitial = dstate.transpose(-1, -2).reshape(B, H, P, N)
        return dx, ddt, dA.view(H).to(A.dtype), dB, dC, dD.view(H).to(D.dtype), dinitial, None, None, None


def spans(S: int, chunk: int, width: int) -> Iterator[tuple[slice, slice, int]]:
    """Runs of chunks that fit a cache, as (tokens, chunks, tokens per chunk); a shorter last chunk is its own span."""
    whole = S // chunk
    run = max(1, SPAN_ELEMENTS // (chunk * width))
    for z in range(0, whole, run):
        end = min(z + run, whole)
        yield slice(z * chunk, end * chunk), slice(z, end), chunk
    if S % chunk:
        yield slice(whole * chunk, S), slice(whole, whole + 1), S % chunk


def forward_span(
    span: Span, state_BGNF: Tensor, y_ZLBGRP: Tensor, decayed_ZLBGRP: Tensor, entered_ZBGNF: Tensor
) -> Tensor:
    """Scan a span: fills y, y before its diagonal is added, and the states that entered; returns the state after."""
    new_ZBGNF = torch.bmm(span.B_write_QLN.mT, span.x_QLF).view_as(entered_ZBGNF)
    state = span.pass_states(state_BGNF, new_ZBGNF, entered_ZBGNF)
    y_QLF = torch.bmm(span.below_QLM, span.x_QLF)
    if span.steep:
        span.steep.clear(y_QLF)
    y_QLF.baddbmm_(span.C_read_QLN, entered_ZBGNF.flatten(0, 2))
    torch.mul(span.by_head(y_QLF), span.row_ZLBGR[..., None], out=decayed_ZLBGRP)
    if span.steep:
        span.steep.add_output(decayed_ZLBGRP)
    torch.addcmul(decayed_ZLBGRP, span.x_ZLBGRP, span.skip_ZLBGR[..., None], out=y_ZLBGRP)
    return state


def backward_span(
    span: Span,
    decayed_ZLBGRP: Tensor,
    entered_ZBGNF: Tensor,
    dy_ZLBGRP: Tensor,
    dstate_BGNF: Tensor,
    leaving_BGR: Tensor,
    dx_ZLBGRP: Tensor,
    ddt_ZLBGR: Tensor,
    dB_ZLBGN: Tensor,
    dC_ZLBGN: Tensor,
    dA_GR: Tensor,
    dD_GR: Tensor,
) -> tuple[Tensor, Tensor]:
    """Go back over a span: fills dx, ddt, dB, dC, adds to dA, dD; returns the entering state's gradient and `leaving`.

    `leaving` is the product of a state and its gradient, summed for each head: the gradient of the log of its scale.
    """
    # 1. Back through the states.
    dy_QLF = span.by_group(dy_ZLBGRP, span.row_ZLBGR)
    dnew_ZBGNF = torch.bmm(span.C_read_QLN.mT, dy_QLF).view_as(entered_ZBGNF)
    dstate, leaving_ZBGR, entering_BGR = span.pass_back(dstate_BGNF, leaving_BGR, dnew_ZBGNF, entered_ZBGNF)
    entered_QNF, dnew_QNF = entered_ZBGNF.flatten(0, 2), dnew_ZBGNF.flatten(0, 2)
    dC_QLN = span.reading(torch.bmm(dy_QLF, entered_QNF.mT))
    dB_QLN = span.writing(torch.bmm(span.x_QLF, dnew_QNF.mT))

    # 2. Back through the scores below the diagonal.
    if span.steep:
        span.steep.clear(dy_QLF)
    dscores_QLM = span.mask(torch.bmm(dy_QLF, span.x_QLF.mT))
    dx_QLF = torch.bmm(span.B_write_QLN, dnew_QNF).baddbmm_(span.below_QLM.mT, dy_QLF)

    # 3. What each token gets: x, dt, and the log decay that rows gain and columns lose.
    x, dxs = span.x_ZLBGRP, span.by_head(dx_QLF)
    dskip_ZLBGR = (x * dy_ZLBGRP).sum(-1, dtype=dxs.dtype)
    dscale_ZLBGR = (x * dxs).sum(-1)
    dlog_ZLBGR = (dy_ZLBGRP * decayed_ZLBGRP).sum(-1) - dscale_ZLBGR * span.scale_ZLBGR
    dlog_ZLBGR[:, -1] += leaving_ZBGR
    dlog_ZLBGR = sum_from(dlog_ZLBGR, span.segments)
    ddt = dscale_ZLBGR * span.col_ZLBGR + span.diagonal_ZLBG1 * dskip_ZLBGR
    dxs *= span.scale_ZLBGR[..., None]
    if span.steep:
        span.steep.add_gradients(
            dy_ZLBGRP, entered_ZBGNF, dnew_ZBGNF, dscale_ZLBGR, dscores_QLM, dxs, ddt, dlog_ZLBGR
        )  # fmt: skip
    torch.addcmul(dxs, dy_ZLBGRP, span.skip_ZLBGR[..., None], out=dx_ZLBGRP)
    ddt_ZLBGR.copy_(ddt.addcmul(dlog_ZLBGR, span.A_GR))
    dA_GR += (dlog_ZLBGR * span.dt_ZLBGR).sum((0, 1, 2))
    dD_GR += dskip_ZLBGR.sum((0, 1, 2))

    # 4. The scores' diagonal, then B and C.
    dscores_QLM.diagonal(dim1=1, dim2=2).copy_((dskip_ZLBGR * span.dt_ZLBGR).sum(-1).permute(0, 2, 3, 1).flatten(0, 2))
    dC_ZLBGN.copy_(span.by_token(dC_QLN.baddbmm_(dscores_QLM, span.B_QLN)))
    dB_ZLBGN.copy_(span.by_token(dB_QLN.baddbmm_(dscores_QLM.mT, span.C_QLN)))
    return dstate, entering_BGR

