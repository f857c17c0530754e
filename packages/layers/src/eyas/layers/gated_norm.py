"""A gated norm over groups, Mamba-2's and its relatives', with its backward written by hand.

Plain autograd keeps seven tensors as wide as the input and passes over memory for each; here y and z are kept, and the
tokens go by in blocks that stay in a cache, both ways.
"""
# S sequence, B batch, H heads, P head dim, G groups of this rank, W its channels of a group, L tokens of a block

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.layers.scratch import scratch

BLOCK_ELEMENTS = 1 << 17
Activation = Literal["silu", "sigmoid"]


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
    activation: Activation = "silu",
) -> Tensor:
    """GroupRMS(y * act(z)) * weight, or GroupRMS(y) * weight * act(z) with `before_gate`. Returns (S, B, H*P).

    y, z: (S, B, H, P) with the heads of this rank; statistics span a group's `group_width` channels, of which this rank
    may hold a part: `total` sums its share over the ranks that hold the rest, forward and backward.
    """
    shape = (*y_SBHP.shape[:2], groups, -1)
    out: Tensor = GatedNorm.apply(
        y_SBHP.reshape(shape), z_SBHP.reshape(shape), weight_HP, group_width, epsilon, before_gate, total, activation
    )
    return out.flatten(2)


class GatedNorm(torch.autograd.Function):
    """With u = y, or y * act(z) if the gate comes first, and r = 1 / rms(u): weight * r * u, times act(z) if last."""

    @staticmethod
    def forward(
        ctx: Any,
        y_SBGW: Tensor,
        z_SBGW: Tensor,
        weight: Tensor,
        group_width: int,
        epsilon: float,
        before_gate: bool,
        total: Callable[[Tensor], Tensor],
        activation: Activation,
    ) -> Tensor:
        wide = torch.promote_types(y_SBGW.dtype, torch.float32)
        weight_GW = weight.view(*y_SBGW.shape[2:]).to(wide)
        squares_SBG1 = y_SBGW.new_empty(*y_SBGW.shape[:3], 1, dtype=wide)
        for block in blocks(y_SBGW):
            u = normed(y_SBGW[block], z_SBGW[block], wide, before_gate, activation)
            torch.sum(torch.mul(u, u, out=scratch("gated u", u, *u.shape)), -1, keepdim=True, out=squares_SBG1[block])
        inverse_SBG1 = torch.rsqrt(total(squares_SBG1) / group_width + epsilon)
        out = torch.empty_like(y_SBGW, memory_format=torch.contiguous_format)
        for block in blocks(y_SBGW):
            u = normed(y_SBGW[block], z_SBGW[block], wide, before_gate, activation)
            v = torch.mul(u, inverse_SBG1[block], out=scratch("gated u", u, *u.shape)).mul_(weight_GW)
            out[block] = v.mul_(gate(z_SBGW[block], wide, activation)) if before_gate else v
        ctx.save_for_backward(y_SBGW, z_SBGW, weight, inverse_SBG1)
        ctx.group_width, ctx.before_gate, ctx.total, ctx.activation = group_width, before_gate, total, activation
        return out

    @staticmethod
    def backward(ctx: Any, dout_SBGW: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight, inverse_SBG1 = ctx.saved_tensors
        wide, before_gate, activation = inverse_SBG1.dtype, ctx.before_gate, ctx.activation
        weight_GW = weight.view(*y.shape[2:]).to(wide)
        dot_SBG1 = torch.empty_like(inverse_SBG1)
        dweight_GW = torch.zeros_like(weight_GW)
        for block in blocks(y):
            u = normed(y[block], z[block], wide, before_gate, activation)
            du = towards(dout_SBGW[block], z[block], wide, before_gate, activation).mul_(u)
            dweight_GW += torch.mul(du, inverse_SBG1[block], out=scratch("gated u", du, *du.shape)).sum((0, 1))
            torch.sum(du.mul_(weight_GW), -1, keepdim=True, out=dot_SBG1[block])
        slope_SBG1 = ctx.total(dot_SBG1) * inverse_SBG1**3 / ctx.group_width
        dy, dz = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (y, z))
        for block in blocks(y):
            u = normed(y[block], z[block], wide, before_gate, activation)
            du = towards(dout_SBGW[block], z[block], wide, before_gate, activation)
            du.mul_(weight_GW).mul_(inverse_SBG1[block]).addcmul_(u, slope_SBG1[block], value=-1)
            if before_gate:
                dy[block] = du
                dgate = torch.mul(u, inverse_SBG1[block], out=du).mul_(weight_GW).mul_(dout_SBGW[block])
            else:
                dy[block] = torch.mul(du, gate(z[block], wide, activation), out=scratch("gated u", du, *du.shape))
                dgate = du.mul_(y[block])
            dz[block] = gate_backward(dgate, z[block], activation)
        return dy, dz, dweight_GW.view_as(weight).to(weight.dtype), None, None, None, None, None


def normed(y_LBGW: Tensor, z_LBGW: Tensor, wide: torch.dtype, before_gate: bool, activation: Activation) -> Tensor:
    """u, what the norm sees; valid until the next call for `u` or a gate."""
    return y_LBGW.to(wide) if before_gate else gate(z_LBGW, wide, activation).mul_(y_LBGW)


def towards(dout_LBGW: Tensor, z_LBGW: Tensor, wide: torch.dtype, before_gate: bool, activation: Activation) -> Tensor:
    """The gradient of what leaves the norm, before its weight, in memory of its own."""
    like = scratch("gated gradient", dout_LBGW, *dout_LBGW.shape, dtype=wide)
    if not before_gate:
        return like.copy_(dout_LBGW)
    return torch.mul(gate(z_LBGW, wide, activation), dout_LBGW, out=like)


def gate(z_LBGW: Tensor, wide: torch.dtype, activation: Activation) -> Tensor:
    """act(z), computed anew."""
    own = scratch("gate", z_LBGW, *z_LBGW.shape, dtype=wide).copy_(z_LBGW)
    return F.silu(own, inplace=True) if activation == "silu" else own.sigmoid_()


def gate_backward(dgate_LBGW: Tensor, z_LBGW: Tensor, activation: Activation) -> Tensor:
    """The gradient of z, in place of the gate's."""
    wide = dgate_LBGW.dtype
    if activation == "silu":
        dz: Tensor = torch.ops.aten.silu_backward.grad_input(dgate_LBGW, z_LBGW.to(wide), grad_input=dgate_LBGW)
        return dz
    gated = gate(z_LBGW, wide, activation)
    return dgate_LBGW.mul_(gated).mul_(1 - gated)


def blocks(values_SBGW: Tensor) -> Iterator[slice]:
    """Runs of tokens; all of them on a GPU, where a launch costs more than a pass over memory."""
    S, row = values_SBGW.shape[0], values_SBGW[0].numel()
    length = S if values_SBGW.is_cuda else max(1, BLOCK_ELEMENTS // row)
    for start in range(0, S, length):
        yield slice(start, start + length)
