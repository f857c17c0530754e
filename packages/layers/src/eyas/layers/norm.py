"""Root-mean-square norms: plain, and gated over groups as in Mamba-2."""

# S sequence, B batch, D hidden, H heads, P head dim

from collections.abc import Callable

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


def gated_group_norm(
    y_SBHP: Tensor,
    z_SBHP: Tensor,
    weight_HP: Tensor,
    *,
    groups: int,
    group_width: int,
    epsilon: float,
    before_gate: bool,
    total: Callable[[Tensor], Tensor],
) -> Tensor:
    """GroupRMS(y * silu(z)) * weight, or GroupRMS(y) * weight * silu(z) with `before_gate`. Returns (S, B, H*P).

    y, z: (S, B, H, P) with the heads of this rank; statistics span a group's `group_width` channels, of which this rank
    may hold a part: `total` sums its share over the ranks that hold the rest.
    """
    sequence, batch = y_SBHP.shape[:2]
    wide = torch.promote_types(y_SBHP.dtype, torch.float32)
    y = y_SBHP.reshape(sequence, batch, groups, -1).to(wide)
    gate = F.silu(z_SBHP.reshape(y.shape).to(wide))
    if not before_gate:
        y = y * gate
    squares = total(y.square().sum(-1, keepdim=True))
    y = y * torch.rsqrt(squares / group_width + epsilon) * weight_HP.view(groups, -1)
    if before_gate:
        y = y * gate
    return y.to(y_SBHP.dtype).flatten(2)
