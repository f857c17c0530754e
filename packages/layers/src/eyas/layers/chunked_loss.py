"""Head and cross-entropy a few tokens at a time: the logits, a step's largest tensor, are never there as a whole."""

# T tokens, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eyas.core.labels import IGNORED
from eyas.layers.cross_entropy import place_of
from eyas.parallel.context import Context

Head = Callable[[Tensor], Tensor]
"""Hidden (T, D) to this rank's logits (T, V): scale * h @ weight.T, padding rows at the lowest number."""


def chunked_loss(
    h_TD: Tensor,
    weight_VD: Tensor,
    labels_T: Tensor,
    head: Head,
    scale: float,
    first: int,
    chunk: int,
    context: Context,
) -> Tensor:
    """`cross_entropy(head(h), labels, first, context)`, (T,), for `chunk` tokens at a time. It keeps h, the labels and
    one number a token; the backward pass makes the logits again and communicates nothing."""
    return _ChunkedLoss.apply(h_TD, weight_VD, labels_T, head, scale, first, chunk, context)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        weight_VD: Tensor,
        labels_T: Tensor,
        head: Head,
        scale: float,
        first: int,
        chunk: int,
        context: Context,
    ) -> Tensor:
        parts = []
        for h, labels in zip(h_TD.split(chunk), labels_T.split(chunk), strict=True):
            logits = head(h).to(wide(h))
            index, here = place_of(labels, first, logits.shape[-1])
            chosen = logits.gather(-1, index).squeeze(-1).masked_fill(~here, 0.0)
            parts.append((logits.amax(-1), logits.logsumexp(-1), chosen))
        top, own, chosen = (torch.cat(part) for part in zip(*parts, strict=True))
        top = context.maximum(top)  # finite, where a rank of padding alone has no sum of its own
        normaliser = top + context.total((own - top).exp()).log()
        ctx.save_for_backward(h_TD, weight_VD, labels_T, normaliser)
        ctx.head, ctx.scale, ctx.first, ctx.chunk = head, scale, first, chunk
        return (normaliser - context.total(chosen)).masked_fill(labels_T == IGNORED, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor | None, ...]:
        h_TD, weight_VD, labels_T, normaliser_T = ctx.saved_tensors
        gradient_T = gradient_T.masked_fill(labels_T == IGNORED, 0.0)
        hidden = torch.empty_like(h_TD)
        weight = torch.zeros_like(weight_VD, dtype=wide(weight_VD))
        tensors = (h_TD, labels_T, normaliser_T, gradient_T, hidden)
        for h, labels, normaliser, gradient, into in zip(*(t.split(ctx.chunk) for t in tensors), strict=True):
            logits = ctx.head(h).to(wide(h)).sub_(normaliser[:, None]).exp_().mul_(gradient[:, None])
            index, here = place_of(labels, ctx.first, logits.shape[-1])
            logits.scatter_add_(-1, index, -(gradient * here)[:, None])
            logits = logits.to(h.dtype)
            torch.mm(logits, weight_VD, out=into).mul_(ctx.scale)
            if weight.dtype == h.dtype:
                weight.addmm_(logits.t(), h, alpha=ctx.scale)
            else:
                weight.add_(logits.t() @ h, alpha=ctx.scale)
        return hidden, weight.to(weight_VD.dtype), *(None,) * 6


def wide(tensor: Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)
