"""Cross-entropy over a vocabulary that tensor-parallel ranks hold in parts (Shoeybi et al., 2019, section 3)."""

# S sequence, B batch, V vocabulary (this rank's rows)

from typing import Any

import torch
from torch import Tensor

from eyas.core.labels import IGNORED
from eyas.parallel.context import Context

__all__ = ["IGNORED", "cross_entropy"]


def cross_entropy(logits_SBV: Tensor, labels_SB: Tensor, first: int, context: Context) -> Tensor:
    """-log softmax(logits)[label] of each token, (S, B), in at least float32; 0 where the label is IGNORED.

    logits: (S, B, V), this rank's part of the vocabulary, which starts at token `first`; labels: (S, B), all ranks
    alike.
    """
    return _CrossEntropy.apply(logits_SBV, labels_SB, first, context)


class _CrossEntropy(torch.autograd.Function):
    """Keeps the softmax alone; the backward pass communicates nothing, since each rank owns its logits.

    It turns the softmax, one of a step's largest tensors, into the gradient in place; a second one is refused.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, first: int, context: Context) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        softmax = logits.to(wide, copy=True)
        top = context.maximum(softmax.amax(-1))
        softmax.sub_(top[..., None])

        index, here = place_of(labels, first, logits.shape[-1])
        chosen = context.total(softmax.gather(-1, index).squeeze(-1).masked_fill(~here, 0.0))
        normaliser = context.total(softmax.exp_().sum(-1))
        softmax.div_(normaliser[..., None])

        counted = labels != IGNORED
        ctx.save_for_backward(softmax, index, here, counted)
        ctx.dtype = logits.dtype
        return (normaliser.log() - chosen).masked_fill(~counted, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient_SB: Tensor) -> tuple[Tensor, None, None, None]:
        softmax, index, here, counted = ctx.saved_tensors
        gradient = gradient_SB.masked_fill(~counted, 0.0)[..., None]
        logits = softmax.mul_(gradient)
        logits.scatter_add_(-1, index, -(gradient * here[..., None]))
        return logits.to(ctx.dtype), None, None, None


def place_of(labels: Tensor, first: int, rows: int) -> tuple[Tensor, Tensor]:
    """Which of this rank's `rows` logits each label (...) names, (..., 1), and whether it names one, (...)."""
    here = (labels >= first) & (labels < first + rows)
    return (labels - first).masked_fill(~here, 0)[..., None], here
