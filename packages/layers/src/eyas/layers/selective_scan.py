"""Mamba's selective scan in chunks (Gu and Dao, 2023): what training runs.

Every channel has its own decays, so there is no matrix form. Decays, inputs and outputs of a chunk are computed at
once; what remains token by token, both ways, is one multiply-add.
"""
# S sequence, B batch, C channels, N state, L tokens of a chunk

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.layers.chunk_scan import scan_chunks
from eyas.layers.ssd import document_starts

CHUNK = 32


def selective_scan(
    x_SBC: Tensor,
    dt_SBC: Tensor,
    A_CN: Tensor,
    B_SBN: Tensor,
    C_SBN: Tensor,
    D_C: Tensor,
    *,
    initial_state_BCN: Tensor | None = None,
    documents_SB: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence of `selective_scan_sequential`, which defines it. Returns y (S, B, C) and the last state.

    dt is positive already and A negative. Where `documents` (S, B) changes from one token to the next the state starts
    again from zero, exactly; `initial_state` belongs to the first token's document. `chunk_size` (32 if None) is a
    matter of speed and memory alone.
    """
    (S, B, C), N = x_SBC.shape, A_CN.shape[-1]
    if dt_SBC.shape != (S, B, C) or A_CN.shape != (C, N) or B_SBN.shape != (S, B, N) or C_SBN.shape != (S, B, N):
        given = ", ".join(str(tuple(t.shape)) for t in (x_SBC, dt_SBC, A_CN, B_SBN, C_SBN))
        raise ConfigError(f"selective_scan needs x and dt (S, B, C), A (C, N), B and C (S, B, N); got {given}")
    state = initial_state_BCN
    if state is None:
        state = x_SBC.new_zeros(B, C, N, dtype=torch.promote_types(x_SBC.dtype, torch.float32))
    starts_SB = None if documents_SB is None else document_starts(documents_SB)
    sequences = (x_SBC, dt_SBC, B_SBN, C_SBN)
    return scan_chunks(chunk, state, starts_SB, sequences, (A_CN, D_C), length=chunk_size or CHUNK)


def chunk(
    state_BCN: Tensor,
    starts_LB: Tensor | None,
    x_LBC: Tensor,
    dt_LBC: Tensor,
    B_LBN: Tensor,
    C_LBN: Tensor,
    A_CN: Tensor,
    D_C: Tensor,
) -> tuple[Tensor, Tensor]:
    """A chunk's output (L, B, C) and the state after it."""
    x, dt, B, C, A, D = (t.to(state_BCN.dtype) for t in (x_LBC, dt_LBC, B_LBN, C_LBN, A_CN, D_C))
    decay_LBCN = torch.exp(dt[..., None] * A)
    if starts_LB is not None:
        decay_LBCN = decay_LBCN.masked_fill(starts_LB[..., None, None], 0.0)
    states_LBCN: Tensor = Recurrence.apply(decay_LBCN, (dt * x)[..., None] * B[:, :, None], state_BCN)
    y_LBC = (states_LBCN @ C[..., None])[..., 0] + D * x
    return y_LBC.to(x_LBC.dtype), states_LBCN[-1]


class Recurrence(torch.autograd.Function):
    """h_t = decay_t h_{t-1} + input_t over the first dimension."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
        states, before = torch.empty_like(inputs), initial
        for t in range(len(inputs)):
            before = torch.addcmul(inputs[t], decay[t], before, out=states[t])
        ctx.save_for_backward(decay, states, initial)
        return states

    @staticmethod
    def backward(ctx: Any, dstates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, initial = ctx.saved_tensors
        dinputs = torch.empty_like(states)
        after = dinputs[-1].copy_(dstates[-1])
        for t in reversed(range(len(states) - 1)):
            after = torch.addcmul(dstates[t], decay[t + 1], after, out=dinputs[t])
        before = torch.cat([initial[None], states[:-1]])
        return dinputs * before, dinputs, decay[0] * after
