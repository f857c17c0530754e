"""Each collective against what one process computes that knows every rank's tensors. Float64 and small whole numbers,
so that sums are exact in any order."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from eyas.parallel import collectives, groups
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import mappings, parallel_state
from eyas.parallel.pool import pool

S, B, D = 8, 2, 3
Ranks = list[Tensor]


def total(tensors: Ranks) -> Ranks:
    return [torch.stack(tensors).sum(0)] * len(tensors)


def identity(tensors: Ranks) -> Ranks:
    return tensors


def whole(shards: Ranks) -> Ranks:
    return [torch.cat(shards)] * len(shards)


def own_part(tensors: Ranks) -> Ranks:
    return [tensor.chunk(len(tensors))[rank] for rank, tensor in enumerate(tensors)]


def scattered_total(tensors: Ranks) -> Ranks:
    return own_part(total(tensors))


def everything(tensor: Tensor) -> Tensor:
    return collectives.sum_over_copies(tensor, collectives.tensor_group())


LAWS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Ranks], Ranks], Callable[[Ranks], Ranks]]] = {
    "gather_sequence": (collectives.gather_sequence, whole, scattered_total),
    "reduce_scatter_sequence": (collectives.reduce_scatter_sequence, scattered_total, whole),
    "copy_to_tensor_ranks": (collectives.copy_to_tensor_ranks, identity, total),
    "sum_over_tensor_ranks": (collectives.sum_over_tensor_ranks, total, identity),
    "sum_over_copies": (everything, total, total),
}
"""Name: the collective, and what its forward and its backward make of all ranks' tensors."""


def drawn(seed: int, ranks: int, *shape: int) -> Ranks:
    """Every rank's tensor, stored transposed, so that it is not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-9, 9, shape[::-1], generator=generator, dtype=torch.float64).permute(2, 1, 0)
        for _ in range(ranks)
    ]


def check_laws(tensor: int) -> None:
    groups.initialise(Layout(tensor=tensor))
    rank = parallel_state.get_tensor_model_parallel_rank()
    for name, (collective, forward, backward) in LAWS.items():
        inputs = drawn(1, tensor, S, B, D)
        x = inputs[rank].detach().requires_grad_()
        y = collective(x)
        torch.testing.assert_close(y, forward(inputs)[rank], rtol=0, atol=0, msg=f"forward of {name}")
        gradients = drawn(2, tensor, *y.shape)
        (gradient,) = torch.autograd.grad(y, x, gradients[rank])
        torch.testing.assert_close(gradient, backward(gradients)[rank], rtol=0, atol=0, msg=f"backward of {name}")


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_collectives_equal_their_definition(tensor: int) -> None:
    pool(tensor).run(check_laws, tensor)


def check_maximum(tensor: int) -> None:
    groups.initialise(Layout(tensor=tensor))
    inputs = drawn(3, tensor, S, B, D)
    x = inputs[parallel_state.get_tensor_model_parallel_rank()].requires_grad_()
    greatest = collectives.max_over_tensor_ranks(x)
    assert not greatest.requires_grad
    assert torch.equal(greatest, torch.stack(inputs).amax(0))


@pytest.mark.parametrize("tensor", [1, 4])
def test_the_maximum_is_over_ranks_and_has_no_gradient(tensor: int) -> None:
    pool(tensor).run(check_maximum, tensor)


def check_other_branches() -> None:
    """Megatron-Core's own mapping reduces in place: the sum is lost, as here, or given to the other branch as well."""
    groups.initialise(Layout(tensor=2))
    x = torch.ones(S, B, D, dtype=torch.float64, requires_grad=True)
    residual = x * 1.0
    (residual + collectives.copy_to_tensor_ranks(x)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))


def test_a_collective_leaves_the_gradients_of_other_branches_alone() -> None:
    pool(2).run(check_other_branches)


def check_inputs_kept() -> None:
    groups.initialise(Layout(tensor=2))
    x = torch.ones(S, B, D, dtype=torch.float64)
    for collective, _, _ in LAWS.values():
        collective(x)
        assert torch.equal(x, torch.ones_like(x))


def test_collectives_keep_their_inputs() -> None:
    pool(2).run(check_inputs_kept)


def check_free() -> None:
    groups.initialise(Layout())
    x = torch.ones(S, B, D, requires_grad=True)
    assert all(collective(x) is x for collective, _, _ in LAWS.values())


def test_one_rank_pays_nothing() -> None:
    pool(1).run(check_free)


def copies_sum(copies: int) -> float:
    groups.initialise(Layout(tensor=4))
    rank = torch.tensor(float(parallel_state.get_tensor_model_parallel_rank()), dtype=torch.float64)
    return collectives.sum_over_copies(rank, groups.copies_group(copies)).item()


@pytest.mark.parametrize(("copies", "sums"), [(1, [0, 1, 2, 3]), (2, [1, 1, 5, 5]), (4, [6, 6, 6, 6])])
def test_copies_are_held_by_neighbouring_ranks(copies: int, sums: list[float]) -> None:
    assert pool(4).run(copies_sum, copies) == sums


@pytest.mark.parametrize("sizes", [(2, 5), (0, 3), (0, 0)])
def test_parts_of_different_sizes_are_gathered_and_scattered(sizes: tuple[int, ...]) -> None:
    pool(len(sizes)).run(check_uneven, sizes)


def check_uneven(sizes: tuple[int, ...]) -> None:
    groups.initialise(Layout(tensor=len(sizes)))
    group, rank = collectives.tensor_group(), collectives.tensor_group().rank()
    parts = [torch.full((size, D), float(1 + number)) for number, size in enumerate(sizes)]
    own = parts[rank].clone().requires_grad_()
    gathered = mappings.gather_from_sequence_parallel_region(own, group=group, output_split_sizes=list(sizes))
    assert torch.equal(gathered, torch.cat(parts))
    (gathered * (1 + rank)).sum().backward()
    assert own.grad is not None and torch.equal(own.grad, torch.full_like(own, 3.0))
    scattered = mappings.reduce_scatter_to_sequence_parallel_region(
        gathered.detach() * (1 + rank), group=group, input_split_sizes=list(sizes)
    )
    assert torch.equal(scattered, 3 * parts[rank])


def test_gloo_still_gathers_equal_parts_alone() -> None:
    pool(2).run(gather_unequal_parts)


def gather_unequal_parts() -> None:
    groups.initialise(Layout(tensor=2))
    rank = collectives.tensor_group().rank()
    with pytest.raises(RuntimeError, match="invalid tensor size"):
        dist.all_gather([torch.zeros(1), torch.zeros(2)], torch.zeros(1 + rank), group=collectives.tensor_group())
