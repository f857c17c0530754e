"""Softmax attention itself: what each token sees, and the weighted sum of what it sees."""

# S sequence, B batch, H query heads, K key-value heads, P head dim

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q_SBHP: Tensor, k_SBKP: Tensor, v_SBKP: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T) v over what `mask` lets each token see; None is causal. Returns (S, B, H, P)."""
    q, k, v = (t.permute(1, 2, 0, 3) for t in (q_SBHP, k_SBKP, v_SBKP))
    y_BHSP = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1], scale=scale
    )
    return y_BHSP.permute(2, 0, 1, 3)


def attend_with_sinks(
    q_SBHP: Tensor, k_SBKP: Tensor, v_SBKP: Tensor, mask: Tensor | None, scale: float, sinks_H: Tensor
) -> Tensor:
    """`attend` with exp(sink) added to each softmax's denominator. Returns (S, B, H, P).

    The sink is a token in front that all see and that has no value. One more channel, which no other key has, makes its
    score the head's sink; so the kernels for plain attention serve.
    """
    q, k, v = (F.pad(t, (0, 0, 0, 0, 0, 0, 1, 0)) for t in (q_SBHP, k_SBKP, v_SBKP))
    sink_SBH = (sinks_H / scale).to(q.dtype).expand(q.shape[:3])
    is_sink_S = F.pad(q.new_ones(1), (0, k.shape[0] - 1))
    q = torch.cat([q, sink_SBH[..., None]], dim=-1)
    k = torch.cat([k, is_sink_S[:, None, None, None].expand(*k.shape[:3], 1)], dim=-1)
    mask = None if mask is None else F.pad(mask, (1, 0, 1, 0), value=True)
    return attend(q, k, F.pad(v, (0, 1)), mask, scale)[1:, ..., :-1].contiguous()


def through_window(kept_SBKP: Tensor, window: int, sinks: int) -> Tensor:
    """What the last token sees of all keys or values up to its own: the first `sinks` and the last `window`."""
    if kept_SBKP.shape[0] <= window + sinks:
        return kept_SBKP
    return torch.cat([kept_SBKP[:sinks], kept_SBKP[-window:]])


def mean_seen(length: int, window: int | None, sinks: int) -> float:
    """How many of `length` tokens one sees on average; without a window half of them, itself not counted."""
    if window is None or window >= length:
        return length / 2
    beyond = length - window
    sinks = min(sinks, beyond)
    return window - window**2 / (2 * length) + (sinks * beyond - sinks**2 / 2) / length


def visible(
    length: int,
    window: int | None,
    sinks: int,
    documents_SB: Tensor | None,
    device: torch.device,
    queries: int | None = None,
) -> Tensor | None:
    """Which keys each query sees, (S, S) or (B, 1, S, S) bool; None stands for plain causal attention. With `queries`
    only the last so many tokens ask."""
    if documents_SB is None and (window is None or window >= length) and queries in (None, length):
        return None
    position = torch.arange(length, device=device)
    asking = slice(length - (queries or length), None)
    distance = position[asking, None] - position
    mask = distance >= 0
    if documents_SB is None:
        return mask if window is None else mask & ((distance < window) | (position < sinks))
    documents_BS = documents_SB.t()
    if window is not None:
        within_BS = position - first_of_document(documents_BS)
        mask = mask & ((distance < window) | (within_BS[:, None, None, :] < sinks))
    return mask & (documents_BS[:, None, asking, None] == documents_BS[:, None, None, :])


def first_of_document(documents_BS: Tensor) -> Tensor:
    """Position of the first token of each token's document, (B, S)."""
    starts = torch.ones_like(documents_BS, dtype=torch.bool)
    starts[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
    position = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    return torch.where(starts, position, 0).cummax(1).values
