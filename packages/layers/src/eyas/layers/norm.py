"""Root-mean-square norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyas.core.mixer import Placement, empty_parameter
from eyas.core.weights import Weight, replicated
from eyas.layers.initial import ones


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight, with statistics in at least float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, epsilon: float, place: Placement) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = empty_parameter(norm_weight(width), place)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width). Returns the same shape and dtype."""
        return rms_norm(x, self.weight, self.epsilon)


def norm_weight(width: int) -> Weight:
    """A norm's weight on the residual stream: its gradient is whole on every rank that sees all tokens."""
    return replicated(width, init=ones, decay=False, partial_gradient=False)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm of the last dimension: statistics in at least float32, cast back, then the weight (Llama's order)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(wide, wide.shape[-1:], eps=epsilon).to(x.dtype) * weight
