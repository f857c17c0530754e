"""The gated delta rule one token at a time: slow, obvious, and what the chunked form is checked against."""
# S sequence, B batch, G key heads, H heads, N key channels, P value channels

from __future__ import annotations

import torch
from torch import Tensor

UNIT_EPSILON = 1e-6
"""Added to a squared length before its root: flash-linear-attention's l2norm, which trained the published models."""


def delta_rule_sequential(
    q_SBGN: Tensor,
    k_SBGN: Tensor,
    v_SBHP: Tensor,
    log_decay_SBH: Tensor,
    beta_SBH: Tensor,
    initial_state_BHPN: Tensor,
    starts_SB: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The literal recurrence; `starts` (S, B) is true where a token begins a document. Returns y and the last state.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T,  y_t = S_t q_t, with k and q of length one and q over
    sqrt(N) (Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464, equation 10); head h reads key head h // (H / G).
    """
    state, ys = initial_state_BHPN, []
    for t in range(v_SBHP.shape[0]):
        if starts_SB is not None:
            state = torch.where(starts_SB[t][:, None, None, None], 0.0, state)
        y, state = delta_rule_step(q_SBGN[t], k_SBGN[t], v_SBHP[t], log_decay_SBH[t], beta_SBH[t], state)
        ys.append(y)
    return torch.stack(ys), state


def delta_rule_step(
    q_BGN: Tensor, k_BGN: Tensor, v_BHP: Tensor, log_decay_BH: Tensor, beta_BH: Tensor, state_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """One token, for decoding: its output (B, H, P) and the state after it (B, H, P, N)."""
    q, k, v, beta = operands(q_BGN, k_BGN, v_BHP, beta_BH[..., None])
    state = state_BHPN * log_decay_BH.to(state_BHPN.dtype).exp()[..., None, None]
    known_BHP = (state * k[..., None, :]).sum(-1)
    state = state + (beta * (v - known_BHP))[..., None] * k[..., None, :]
    return (state * q[..., None, :]).sum(-1).to(v_BHP.dtype), state


def operands(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q and k (..., G, N), v (..., H, P), beta (..., H, 1) as the recurrence takes them: in at least float32, q and k
    of length one and repeated for every head, q over sqrt(N)."""
    shared = v.shape[-2] // k.shape[-2]
    q, k, v, beta = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v, beta))
    q, k = (t * torch.rsqrt(t.square().sum(-1, keepdim=True) + UNIT_EPSILON) for t in (q, k))
    q, k = (t.repeat_interleave(shared, dim=-2) for t in (q * q.shape[-1] ** -0.5, k))
    return q, k, v, beta
