"""The likeliest token, over a vocabulary that tensor-parallel ranks hold in parts."""

# V vocabulary (this rank's rows)

import torch
from torch import Tensor

from eyas.parallel.context import Context


def greedy(logits: Tensor, first: int, context: Context) -> Tensor:
    """The token with the greatest logit, the lowest one where several have it. logits: (..., V), the rank's part of the
    vocabulary, which starts at token `first`. The same on all ranks."""
    top, index = logits.max(-1)
    candidate = torch.where(top == context.maximum(top), index + first, torch.iinfo(index.dtype).max)
    return -context.maximum(-candidate)
