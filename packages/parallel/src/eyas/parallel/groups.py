"""Process groups of a layout: Megatron-Core's, and the tensor subgroups whose ranks hold copies of one weight."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from eyas.core.errors import LayoutError
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state

KEPT = 4
"""Layouts whose groups stay open. A run has one; proofs go back and forth, and closing groups takes 0.2 s."""


@dataclass
class _Groups:
    """The groups of one layout: Megatron-Core's variables, and the group of this rank for each number of copies."""

    megatron: dict[str, Any] = field(default_factory=dict)
    copies: dict[int, dist.ProcessGroup] = field(default_factory=dict)

    def close(self) -> None:
        created = [*self.copies.values(), *self.megatron["_global_process_group_list"]]
        for group in dict.fromkeys(created):
            if group is not None:
                dist.destroy_process_group(group)


_kept: dict[Layout, _Groups] = {}
"""Open groups by layout, the present one last."""


def initialise(layout: Layout) -> None:
    """Makes the process groups of `layout` the present ones; every process of the job calls it. Does nothing if they
    are already. Starts torch.distributed from the environment where the caller has not."""
    start_world()
    layout.check_world(dist.get_world_size())
    sizes = Layout(
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        context=layout.context,
        data=layout.data,
        expert=layout.expert,
        expert_tensor=layout.inside_experts,
    )
    if _kept and sizes == next(reversed(_kept)):
        return
    found = _kept.pop(sizes, None)
    if found is None:
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept))).close()
        found = _create(sizes)
    vars(parallel_state).update(found.megatron)
    _kept[sizes] = found


def start_world() -> None:
    """Joins the job that RANK, WORLD_SIZE and MASTER_ADDR describe: over NCCL with GPUs, over gloo without."""
    if dist.is_initialized():
        return
    number, visible = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= visible > 1:
        raise LayoutError(
            f"rank {number} of its machine sees {visible} GPUs; let every process see one, or all of them"
        )
    if visible > 1:  # a process that sees only one has it by whatever number
        torch.cuda.set_device(number)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def copies_group(copies: int) -> dist.ProcessGroup | None:
    """The group of `copies` neighbouring tensor-parallel ranks that this rank belongs to; None for one rank alone."""
    if copies == 1:
        return None
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    if copies == tensor:
        group: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
        return group
    if tensor % copies:
        raise LayoutError(f"{copies} copies of a weight cannot be held by layout.tensor={tensor} ranks; use a divisor")
    return next(reversed(_kept.values())).copies[copies]


def finish() -> None:
    """Leaves the job: takes all process groups down, torch.distributed's own included."""
    for groups in _kept.values():
        groups.close()
    _kept.clear()
    if parallel_state.model_parallel_is_initialized():
        _forget()
    if dist.is_initialized():
        dist.destroy_process_group()


def _create(layout: Layout) -> _Groups:
    _forget()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.inside_experts,
        create_gloo_process_groups=False,
    )
    return _Groups(_megatron_variables(), _copies_groups(layout.tensor))


def _copies_groups(tensor: int) -> dict[int, dist.ProcessGroup]:
    """One group for each run of s neighbouring tensor ranks, for every divisor s. Tensor ranks are neighbours in the
    world, so the runs tile it."""
    world, rank = dist.get_world_size(), dist.get_rank()
    mine = {}
    for size in (size for size in range(2, tensor) if tensor % size == 0):
        for first in range(0, world, size):
            group = dist.new_group(list(range(first, first + size)))
            if first <= rank < first + size:
                mine[size] = group
    return mine


def _megatron_variables() -> dict[str, Any]:
    """Megatron-Core keeps its groups in module variables: `_TENSOR_MODEL_PARALLEL_GROUP` and sixty more."""
    return {
        name: value
        for name, value in vars(parallel_state).items()
        if name.startswith("_") and (name.isupper() or name == "_global_process_group_list")
    }


def _forget() -> None:
    """Clears Megatron-Core's variables; the groups stay open."""
    parallel_state.destroy_model_parallel()
    parallel_state._global_process_group_list = None
