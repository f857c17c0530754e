"""Every communication between tensor-parallel or context-parallel ranks, each with its forward and its backward.

Each is the identity, at no cost, where there is one rank. Tensors are sequence-first: (S, B, D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from eyas.parallel.megatron import mappings, parallel_state

Group = dist.ProcessGroup


def tensor_group() -> Group:
    """The tensor-parallel ranks that share this rank's layers."""
    group: Group = parallel_state.get_tensor_model_parallel_group()
    return group


def gather_sequence(shard_SBD: Tensor) -> Tensor:
    """The whole sequence from its shards. Forward: all-gather along S; backward: reduce-scatter along S."""
    group = tensor_group()
    if group.size() == 1:
        return shard_SBD
    whole_SBD: Tensor = mappings.gather_from_sequence_parallel_region(shard_SBD, group=group)
    return whole_SBD


def begin_gather_sequence(shard_SBD: Tensor) -> Callable[[], Tensor]:
    """Begins to gather the whole sequence beside other work; what it returns waits for it. All-gather along S, without
    a backward."""
    group, shard = tensor_group(), shard_SBD.contiguous()
    whole_SBD = shard.new_empty(shard.shape[0] * group.size(), *shard.shape[1:])
    work = dist.all_gather_into_tensor(whole_SBD, shard, group=group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        return whole_SBD

    return finish


def reduce_scatter_sequence(partial_SBD: Tensor) -> Tensor:
    """This rank's shard of the sum of all partial sums. Forward: reduce-scatter along S; backward: all-gather."""
    group = tensor_group()
    if group.size() == 1:
        return partial_SBD
    shard_SBD: Tensor = mappings.reduce_scatter_to_sequence_parallel_region(partial_SBD, group=group)
    return shard_SBD


def copy_to_tensor_ranks(x: Tensor) -> Tensor:
    """A tensor that every rank has, on its way into sharded weights. Forward: identity; backward: all-reduce."""
    group = tensor_group()
    return x if group.size() == 1 else _Copy.apply(x, group)


def sum_over_tensor_ranks(partial: Tensor) -> Tensor:
    """The sum of all partial sums, on every rank. Forward: all-reduce; backward: identity."""
    group = tensor_group()
    return partial if group.size() == 1 else _Sum.apply(partial, group)


def sum_over_copies(partial: Tensor, group: Group | None) -> Tensor:
    """The sum over a group of ranks, of which each goes on with its own work. Forward: all-reduce; backward:
    all-reduce. `group` is `groups.copies_group(...)`."""
    return partial if group is None or group.size() == 1 else _SumBothWays.apply(partial, group)


def gather_from_context_ranks(x: Tensor) -> Tensor:
    """All context-parallel ranks' tensors, one behind the other along the first dimension. Forward: all-gather;
    backward: reduce-scatter."""
    gathered: Tensor = mappings.gather_from_sequence_parallel_region(
        x.contiguous(), group=parallel_state.get_context_parallel_group()
    )
    return gathered


def exchange_between_context_ranks(parts: Tensor) -> Tensor:
    """Sends parts[r] to context-parallel rank r, and returns what each rank sent here, in the same shape. Forward and
    backward: all-to-all."""
    received: Tensor = mappings.all_to_all(parallel_state.get_context_parallel_group(), parts)
    return received


def max_over_tensor_ranks(x: Tensor) -> Tensor:
    """The greatest value over the ranks, element by element. Forward: all-reduce; no backward."""
    group = tensor_group()
    return x.detach() if group.size() == 1 else _all_reduce(x.detach(), group, dist.ReduceOp.MAX)


def _all_reduce(x: Tensor, group: Group, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """All-reduce into a new tensor. Megatron-Core's mapping works in place, on the gradient of other branches too, and
    loses the sum of a tensor that is not contiguous (tensor_parallel/mappings.py, line 32)."""
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, op=op, group=group)
    return out


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Group) -> Tensor:
        return _all_reduce(partial, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SumBothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _all_reduce(partial, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(gradient, ctx.group), None
