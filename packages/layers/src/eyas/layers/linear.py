"""A matrix product with its multipliers: the one place where muP multipliers are applied."""

import torch
from torch import Tensor

from eyas.layers import onednn


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_in: float | None = None,
    scale_out: float | None = None,
) -> Tensor:
    """scale_out * ((scale_in * x) @ weight.T + bias), (..., out). x: (..., in), weight: (out, in), bias: (out,).

    The scales, 1 where None, ride on the matrix product's own factor or on its smaller operand, so that they cost no
    pass over the output. A gradient of a gradient is refused where `onednn` multiplies.
    """
    after = 1.0 if scale_out is None else scale_out
    before = 1.0 if scale_in is None else scale_in
    rows = x.reshape(-1, x.shape[-1])
    if onednn.takes(rows, weight, onednn.LEAST):
        product = onednn.product(rows, weight, bias, before * after, after)
    elif bias is None:
        product = torch.addmm(x.new_empty(1), rows, weight.t(), beta=0.0, alpha=before * after)
    else:
        product = torch.addmm(bias, rows, weight.t(), beta=after, alpha=before * after)
    return product.view(*x.shape[:-1], weight.shape[0])
