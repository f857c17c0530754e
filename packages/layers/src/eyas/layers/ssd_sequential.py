"""Mamba-2's recurrence one token at a time: slow, obvious, and what the fast kernels are checked against."""
# S sequence, B batch, H heads, P head dim, N state, G groups

from __future__ import annotations

import torch
from torch import Tensor


def ssd_sequential(
    x_SBHP: Tensor,
    dt_SBH: Tensor,
    A_H: Tensor,
    B_SBGN: Tensor,
    C_SBGN: Tensor,
    D_H: Tensor | None,
    initial_state_BHPN: Tensor | None,
    starts_SB: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The literal recurrence; `starts` (S, B) is true where a token begins a document. Returns y and the last state.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t + D x_t: the selective state space model of Dao and Gu
    2024 (arXiv:2405.21060, equation 2) with A_t = exp(dt_t A), dt_t x_t as its input, and the skip D of their code.
    """
    (B, H, P), N = x_SBHP.shape[1:], B_SBGN.shape[-1]
    dtype = torch.promote_types(x_SBHP.dtype, torch.float32)
    state = x_SBHP.new_zeros(B, H, P, N, dtype=dtype) if initial_state_BHPN is None else initial_state_BHPN.to(dtype)
    ys = []
    for t in range(x_SBHP.shape[0]):
        if starts_SB is not None:
            state = torch.where(starts_SB[t][:, None, None, None], 0.0, state)
        y, state = ssd_step(x_SBHP[t], dt_SBH[t], A_H, B_SBGN[t], C_SBGN[t], D_H, state)
        ys.append(y)
    return torch.stack(ys), state


def ssd_step(
    x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGN: Tensor, C_BGN: Tensor, D_H: Tensor | None, state_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of the scan, for decoding: the token's output (B, H, P) and the state after it (B, H, P, N)."""
    dtype = state_BHPN.dtype
    B_BHN, C_BHN = (t.to(dtype).repeat_interleave(x_BHP.shape[1] // t.shape[1], dim=1) for t in (B_BGN, C_BGN))
    x, dt = x_BHP.to(dtype), dt_BH.to(dtype)
    decay_BH = torch.exp(dt * A_H.to(dtype))
    state = state_BHPN * decay_BH[..., None, None] + (x * dt[..., None])[..., None] * B_BHN[..., None, :]
    y = torch.matmul(state, C_BHN[..., None])[..., 0]
    if D_H is not None:
        y = y + x * D_H.to(dtype)[:, None]
    return y.to(x_BHP.dtype), state
