"""The gated delta rule in chunks (Yang, Kautz and Hatamizadeh, 2024): what training runs."""
# S sequence, B batch, G key heads, H heads, N key channels, P value channels, L token of a chunk, M an earlier one

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eyas.core.errors import ConfigError
from eyas.layers.chunk_scan import scan_chunks
from eyas.layers.delta_rule_sequential import operands
from eyas.layers.ssd import document_starts

CHUNK = 64


def gated_delta_rule(
    q_SBGN: Tensor,
    k_SBGN: Tensor,
    v_SBHP: Tensor,
    log_decay_SBH: Tensor,
    beta_SBH: Tensor,
    *,
    initial_state_BHPN: Tensor | None = None,
    documents_SB: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence of `delta_rule_sequential`, which defines it. Returns y (S, B, H, P) and the last state.

    Where `documents` (S, B) changes from one token to the next the state starts again from zero, exactly;
    `initial_state` belongs to the first token's document. `chunk_size` (64 if None) is a matter of speed alone.
    """
    (S, B, H, P), (G, N) = v_SBHP.shape, k_SBGN.shape[2:]
    if q_SBGN.shape != (S, B, G, N) or log_decay_SBH.shape != (S, B, H) or beta_SBH.shape != (S, B, H) or H % G:
        given = ", ".join(str(tuple(t.shape)) for t in (q_SBGN, k_SBGN, v_SBHP, log_decay_SBH, beta_SBH))
        raise ConfigError(
            f"gated_delta_rule needs q and k (S, B, G, N), v (S, B, H, P), decay and beta (S, B, H), H a multiple of "
            f"G; got {given}"
        )
    state = initial_state_BHPN
    if state is None:
        state = v_SBHP.new_zeros(B, H, P, N, dtype=torch.promote_types(v_SBHP.dtype, torch.float32))
    starts_SB = None if documents_SB is None else document_starts(documents_SB)
    sequences = (q_SBGN, k_SBGN, v_SBHP, log_decay_SBH, beta_SBH)
    return scan_chunks(chunk, state, starts_SB, sequences, length=chunk_size or CHUNK)


def delta_rule_summary(
    k_SBGN: Tensor,
    v_SBHP: Tensor,
    log_decay_SBH: Tensor,
    beta_SBH: Tensor,
    *,
    documents_SB: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The state (B, H, P, N) behind the last token where the rule begins with zero, and the matrix (B, H, N, N) that a
    state which it begins with is multiplied by. The rule is linear in the state, and its rows are independent: N more
    of them, which begin as the identity and to which nothing is written, find the matrix. Only the operands are kept
    for the backward pass, which costs the rule once more."""
    summed_up = partial(summary, documents_SB=documents_SB, chunk_size=chunk_size)
    operands = (k_SBGN, v_SBHP, log_decay_SBH, beta_SBH)
    found: tuple[Tensor, Tensor] = checkpoint(summed_up, *operands, use_reentrant=False, preserve_rng_state=False)
    return found


def summary(
    k_SBGN: Tensor,
    v_SBHP: Tensor,
    log_decay_SBH: Tensor,
    beta_SBH: Tensor,
    *,
    documents_SB: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """`delta_rule_summary` by the rule itself."""
    (_, B, H, P), N = v_SBHP.shape, k_SBGN.shape[-1]
    eye_NN = torch.eye(N, dtype=torch.promote_types(v_SBHP.dtype, torch.float32), device=v_SBHP.device)
    _, last_BHQN = gated_delta_rule(
        k_SBGN,
        k_SBGN,
        F.pad(v_SBHP, (0, N)),
        log_decay_SBH,
        beta_SBH,
        initial_state_BHPN=F.pad(eye_NN, (0, 0, P, 0)).expand(B, H, -1, -1),
        documents_SB=documents_SB,
        chunk_size=chunk_size,
    )
    state_BHPN, matrix_BHNN = last_BHQN.split([P, N], dim=2)
    return state_BHPN, matrix_BHNN


def chunk(
    state_BHPN: Tensor,
    starts_LB: Tensor | None,
    q_LBGN: Tensor,
    k_LBGN: Tensor,
    v_LBHP: Tensor,
    log_decay_LBH: Tensor,
    beta_LBH: Tensor,
) -> tuple[Tensor, Tensor]:
    """A chunk's output (L, B, H, P) and the state after it.

    With u_t the value that token t really writes, the state is a decayed sum of u_t k_t^T, and what each u_t takes away
    depends on the earlier ones through the triangle of key products: one triangular solve finds them all (the WY form
    and UT transform of Yang et al., 2024, arXiv:2406.06484, with the decays of arXiv:2412.06464, section 3.3).
    """
    q, k, v, beta = (t.transpose(0, 1).transpose(1, 2) for t in operands(q_LBGN, k_LBGN, v_LBHP, beta_LBH[..., None]))
    between_BHLM, before_BHL1 = decays(log_decay_LBH, starts_LB, state_BHPN.dtype)
    known_BHLP = before_BHL1 * (k @ state_BHPN.mT)
    triangle_BHLM = beta * (k @ k.mT) * between_BHLM
    u_BHLP = torch.linalg.solve_triangular(triangle_BHLM, beta * (v - known_BHLP), upper=False, unitriangular=True)
    y_BHLP = before_BHL1 * (q @ state_BHPN.mT) + (q @ k.mT * between_BHLM) @ u_BHLP
    written_BHPN = (u_BHLP * between_BHLM[:, :, -1, :, None]).mT @ k
    state = before_BHL1[:, :, -1:] * state_BHPN + written_BHPN
    return y_BHLP.permute(2, 0, 1, 3).to(v_LBHP.dtype), state


def decays(log_decay_LBH: Tensor, starts_LB: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What token L sees of an earlier M (B, H, L, M) and of the state before the chunk (B, H, L, 1): their decay, or
    exactly zero for what is later or of another document."""
    log_BHL = log_decay_LBH.to(dtype).permute(1, 2, 0)
    L = log_BHL.shape[-1]
    later_LM = torch.ones(L, L, dtype=torch.bool, device=log_BHL.device).tril(-1)
    # Sums from M to L, not differences of sums from the start: those leave rounding in gradients that must be zero.
    between = torch.where(later_LM, log_BHL[..., None], 0.0).cumsum(-2).masked_fill(later_LM.t(), -torch.inf)
    before_BHL = log_BHL.cumsum(-1)
    if starts_LB is not None:
        number_B1L = starts_LB.cumsum(0).t()[:, None]
        between = between.masked_fill(number_B1L[..., :, None] != number_B1L[..., None, :], -torch.inf)
        before_BHL = before_BHL.masked_fill(number_B1L > 0, -torch.inf)
    return between.exp(), before_BHL.exp()[..., None]
