"""What a piece of a sequence does to Mamba-2's state, without its outputs."""
# S sequence, B batch, H heads, P head dim, N state, G groups

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eyas.layers.ssd import document_starts
from eyas.layers.ssd_decay import cut_exp


def ssd_summary(
    x_SBHP: Tensor, dt_SBH: Tensor, A_H: Tensor, B_SBGN: Tensor, documents_SB: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The state (B, H, P, N) behind the last token where `ssd` begins with zero, and the factor (B, H, 1, 1) by which
    it multiplies a state that it begins with, in one document. Both in at least float32, from one matrix product, which
    the backward pass makes anew: only the operands are kept, as the scan keeps them."""
    operands = (x_SBHP, dt_SBH, A_H, B_SBGN, documents_SB)
    found: tuple[Tensor, Tensor] = checkpoint(summary, *operands, use_reentrant=False, preserve_rng_state=False)
    return found


def summary(
    x_SBHP: Tensor, dt_SBH: Tensor, A_H: Tensor, B_SBGN: Tensor, documents_SB: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`ssd_summary` in plain operations."""
    wide = torch.promote_types(x_SBHP.dtype, torch.float32)
    log_SBH = dt_SBH.double() * A_H.double()
    total_BH = log_SBH.sum(0)
    behind_SBH = total_BH - log_SBH.cumsum(0)
    if documents_SB is not None:
        number_SB = document_starts(documents_SB).cumsum(0)
        behind_SBH = behind_SBH.masked_fill((number_SB != number_SB[-1])[..., None], -torch.inf)
    written_SBHP = x_SBHP.to(wide) * (cut_exp(behind_SBH, wide) * dt_SBH).to(wide)[..., None]
    by_group_SBGRP = written_SBHP.unflatten(2, (B_SBGN.shape[2], -1))
    state_BHPN = torch.einsum("sbgrp,sbgn->bgrpn", by_group_SBGRP, B_SBGN.to(wide)).flatten(1, 2)
    return state_BHPN, cut_exp(total_BH, wide).to(wide)[..., None, None]
