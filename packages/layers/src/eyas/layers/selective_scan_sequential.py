"""Mamba's selective scan one token at a time: slow, obvious, and what the chunked form is checked against."""
# S sequence, B batch, C channels, N state

from __future__ import annotations

import torch
from torch import Tensor


def selective_scan_sequential(
    x_SBC: Tensor,
    dt_SBC: Tensor,
    A_CN: Tensor,
    B_SBN: Tensor,
    C_SBN: Tensor,
    D_C: Tensor,
    initial_state_BCN: Tensor,
    starts_SB: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The literal recurrence; `starts` (S, B) is true where a token begins a document. Returns y and the last state.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,  y_t = h_t C_t + D x_t for each channel, whose A has one entry per state
    (Gu and Dao 2023, arXiv:2312.00752, equations 2 and 4 with the discretisation of their code).
    """
    state, ys = initial_state_BCN, []
    for t in range(x_SBC.shape[0]):
        if starts_SB is not None:
            state = torch.where(starts_SB[t][:, None, None], 0.0, state)
        y, state = selective_step(x_SBC[t], dt_SBC[t], A_CN, B_SBN[t], C_SBN[t], D_C, state)
        ys.append(y)
    return torch.stack(ys), state


def selective_step(
    x_BC: Tensor, dt_BC: Tensor, A_CN: Tensor, B_BN: Tensor, C_BN: Tensor, D_C: Tensor, state_BCN: Tensor
) -> tuple[Tensor, Tensor]:
    """One token, for decoding: its output (B, C) and the state after it (B, C, N)."""
    x, dt, A, B, C, D = (t.to(state_BCN.dtype) for t in (x_BC, dt_BC, A_CN, B_BN, C_BN, D_C))
    state = torch.exp(dt[..., None] * A) * state_BCN + (dt * x)[..., None] * B[:, None]
    return ((state * C[:, None]).sum(-1) + D * x).to(x_BC.dtype), state
