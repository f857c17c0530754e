"""Feed-forward experts over tokens sorted by expert: one grouped matrix product, or a plain loop as its oracle."""

# N tokens, E experts, I input width, O output width, D model or latent width, F neurons

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.layers import grouped_onednn, onednn
from eyas.layers.grouped_transformer_engine import grouped_transformer_engine

Kernel = Literal["auto", "grouped", "loop", "transformer_engine"]
GROUPED_BYTES = 16
"""torch's grouped product takes rows of a multiple of so many bytes."""


def experts(
    tokens_ND: Tensor,
    counts: Sequence[int],
    weights_N: Tensor,
    up_EFD: Tensor,
    gate_EFD: Tensor | None,
    down_EDF: Tensor,
    activate: Callable[[Tensor], Tensor],
    *,
    weigh_inside: bool,
    kernel: Kernel,
) -> Tensor:
    """Each expert's output for its tokens times their weights, (N, D): down(act(up x)), with a gate down(act(gate x) *
    up x).

    `counts` are the tokens of each expert in order. `weigh_inside` applies the weights before the last projection: the
    same values without biases, and the experts' outputs need not be kept for the backward pass.
    """
    up = grouped_linear(tokens_ND, counts, up_EFD, kernel)
    hidden = activate(up) if gate_EFD is None else activate(grouped_linear(tokens_ND, counts, gate_EFD, kernel)) * up
    weights_N1 = weights_N.to(hidden.dtype)[:, None]
    if weigh_inside:
        return grouped_linear(hidden * weights_N1, counts, down_EDF, kernel)
    return grouped_linear(hidden, counts, down_EDF, kernel) * weights_N1


def grouped_linear(x_NI: Tensor, counts: Sequence[int], weight_EOI: Tensor, kernel: Kernel = "auto") -> Tensor:
    """Each expert's rows times its matrix: (N, O). "auto" takes torch's grouped product where that takes the tensors,
    through oneDNN where that is faster; transformer-engine's must be asked for, as it multiplies float32 with fewer
    digits.

    Raises ConfigError where "grouped" or "transformer_engine" is asked for and cannot be had.
    """
    if kernel == "transformer_engine":
        return grouped_transformer_engine(x_NI, counts, weight_EOI)
    possible = grouped_takes(x_NI.itemsize, *weight_EOI.shape[1:])
    if kernel == "grouped" and not possible:
        raise ConfigError(
            f"kernel=grouped takes float32, bfloat16 or float16 in rows of a multiple of {GROUPED_BYTES} bytes, not "
            f"experts of {tuple(weight_EOI.shape[1:])} in {x_NI.dtype}; use kernel=loop"
        )
    if kernel == "loop" or not possible:
        parts = zip(x_NI.split(list(counts)), weight_EOI.unbind(0), strict=True)
        return torch.cat([rows @ weight.t() for rows, weight in parts])
    ends = torch.tensor(counts, device=x_NI.device).cumsum(0).to(torch.int32)
    if kernel == "auto" and onednn.takes(x_NI, weight_EOI, len(weight_EOI) * grouped_onednn.LEAST):
        return grouped_onednn.product(x_NI, ends, weight_EOI)
    product: Tensor = F.grouped_mm(x_NI, weight_EOI.transpose(1, 2), offs=ends)
    return product


def grouped_takes(element: int, *widths: int) -> bool:
    """Whether torch's grouped product takes matrices of these widths with elements of `element` bytes: float32 and
    narrower, in aligned rows."""
    return element <= 4 and all(width * element % GROUPED_BYTES == 0 for width in widths)
