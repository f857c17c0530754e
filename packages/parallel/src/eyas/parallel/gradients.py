"""The gradient sums that declarations ask for, once per step, after Megatron-Core has reduced over the replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyas.core.mixer import held
from eyas.parallel.groups import copies_group
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import finalize_model_grads


def mark(model: nn.Module, layout: Layout, *, tied: bool, tied_copy: bool) -> None:
    """Tells Megatron-Core which weights are experts', replicated over a grid of their own, and which count in the
    gradient norm: of several copies, the first rank's.

    What ranks with different weights beside it have in common gets a bucket of its own, so that the distributed
    optimizer divides it alike on all of them: the embedding where the first and the last stage have the same (`tied`;
    `tied_copy` where this stage's is the copy), and copies where branches lie on halves of the ranks.
    """
    halves = layout.branches != "together"
    for name, parameter, weight, place in held(model):
        noted: Any = parameter  # Megatron-Core reads what it is told as attributes of the parameter
        first = place.tensor_rank % weight.copies(place) == 0
        noted.tensor_model_parallel = first
        noted.allreduce = not weight.expert
        embedding = tied and name.startswith("embedding.")
        if embedding or (halves and weight.copies(place) > 1):
            noted.shared_embedding = True
        if embedding and tied_copy:
            noted.shared = True


def main_gradient(parameter: Tensor) -> Tensor:
    """A weight's gradient as summed over microbatches and replicas, which Megatron-Core keeps as an attribute of what
    is not frozen."""
    noted: Any = parameter
    gradient: Tensor = noted.main_grad
    return gradient


def gather_parts(model: Sequence[nn.Module]) -> None:
    """Completes the gradients that the distributed optimizer's replicas hold a part of each, for whoever compares
    them; the optimizer reads its own part alone. A collective of all ranks, behind the reduction."""
    for chunk in model:
        ours: Any = chunk
        for buffer in [*ours.buffers, *ours.expert_parallel_buffers]:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                part = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, part, group=group)


def counts_here(parameter: Tensor) -> bool:
    """Whether the gradient norm counts this rank's copy of a weight, by what `mark` told."""
    noted: Any = parameter
    return noted.tensor_model_parallel and not getattr(noted, "shared", False)


def finalize(model: Sequence[nn.Module], num_tokens: Tensor | None, layout: Layout, **options: Any) -> None:
    """Megatron-Core's finalization with the divisor in full precision, then the sums over copies of one weight."""
    finalize_model_grads(list(model), None if num_tokens is None else num_tokens.to(torch.float64), **options)
    if layout.tensor > 1:
        for chunk in model:
            sum_over_copies(chunk, layout)


def sum_over_copies(model: nn.Module, layout: Layout) -> None:
    """Sums the gradients of weights that several tensor-parallel ranks hold and of which each saw a part: its own heads
    inside a mixer, or its own part of the sequence under sequence parallelism."""
    waiting: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for _, parameter, weight, place in held(model):
        copies = weight.copies(place)
        if weight.trained and parameter.requires_grad and copies > 1 and (weight.partial_gradient or layout.sequence):
            gradient = main_gradient(parameter)
            waiting.setdefault((copies, gradient.dtype), []).append(gradient)
    for (copies, _), gradients in waiting.items():
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together, group=copies_group(copies))
        for gradient, total in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))
