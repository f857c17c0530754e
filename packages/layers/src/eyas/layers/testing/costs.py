"""What a mixer says that it costs, against what it does cost."""

# S sequence, B batch, D hidden

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd import graph
from torch.utils.flop_counter import FlopCounterMode

from eyas.core.weights import Coordinates
from eyas.layers.testing.case import Case, decode, output
from eyas.layers.testing.laws import DTYPES, skip_unless_it_decodes
from eyas.parallel.context import Context

LENGTHS = (70, 96)
"""Tokens for which kept activations are measured: one that chunks divide, and one that they do not."""


def parameters_are_those_of_every_rank(case: Case) -> None:
    """`parameters` counts what each rank's module holds."""
    for tensor in case.ranks:
        stated = case.config.parameters(case.hidden_size, Coordinates.of(tensor))
        for rank in range(tensor):
            held = sum(p.numel() for p in case.module(tensor_rank=rank, tensor=tensor).parameters())
            assert stated == held, f"parameters states {stated}, but rank {rank} of {tensor} holds {held}"


def flops_are_those_counted(case: Case) -> None:
    """`flops` is what torch's counter sees in a forward pass, per token."""
    module, x_SBD = case.module(), case.x()
    with FlopCounterMode(display=False) as counter:
        output(module, x_SBD, Context())
    stated = case.config.flops(case.hidden_size, case.length) * case.length * case.batch
    counted = counter.get_total_flops()
    assert stated == counted, f"flops states {stated:g} for {case.length * case.batch} tokens, torch counts {counted:g}"


def activation_bytes_are_those_kept(case: Case) -> None:
    """`activation_bytes` is what autograd keeps beyond weights and input, in every dtype and on every rank. What two
    layers of a model share, such as a table of rotations, is no layer's own and does not count."""
    placements = [(dtype, 1) for dtype in DTYPES]
    if not case.config.owns_tokens:  # else a rank's tokens are spread by the layout
        placements += [(torch.float32, tensor) for tensor in case.ranks[1:]]
    for length, (dtype, tensor) in itertools.product(LENGTHS, placements):
        long = replace(case, length=length)
        module, twin = (long.module(dtype=dtype, tensor=tensor) for _ in range(2))
        x_SBD = long.x(dtype=dtype).requires_grad_()
        known = [x_SBD, *module.parameters(), *module.buffers(), *twin.parameters(), *twin.buffers()]
        shared = kept_tensors(partial(output, twin, x_SBD, Context()), known)
        kept = bytes_kept(partial(output, module, x_SBD, Context()), [*known, *shared])
        stated = case.config.activation_bytes(
            case.hidden_size, length, case.batch, dtype.itemsize, Coordinates.of(tensor)
        )
        assert stated == kept, (
            f"activation_bytes states {stated:g}, but {kept} are kept: {dtype}, {case.batch} sequences of {length} "
            f"tokens, one of {tensor} ranks"
        )


def state_bytes_are_those_of_the_state(case: Case) -> None:
    """`state_bytes` is the size of the state after the last token, in every dtype."""
    for dtype in DTYPES:
        module, x_SBD = case.module(dtype=dtype), case.x(dtype=dtype)
        skip_unless_it_decodes(module)
        with torch.no_grad():
            _, state = decode(module, x_SBD)
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors(state))
        stated = case.batch * case.config.state_bytes(case.hidden_size, case.length, dtype.itemsize)
        assert stated == held, f"state_bytes states {stated} for {case.batch} sequences, but {held} are held in {dtype}"


def bytes_kept(run: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """Bytes that `run` keeps for a backward pass, each piece of memory counted once, what is `known` not at all."""
    return sum(tensor.untyped_storage().nbytes() for tensor in kept_tensors(run, known))


def kept_tensors(run: Callable[[], Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """One tensor for each piece of memory that `run` keeps for a backward pass beyond what is `known`: where hooks
    inside of it decide, what they keep."""
    seen, kept = {tensor.untyped_storage().data_ptr() for tensor in known}, []

    def note(packed: Any) -> None:
        for tensor in tensors(packed):
            if tensor.untyped_storage().data_ptr() not in seen:
                seen.add(tensor.untyped_storage().data_ptr())
                kept.append(tensor)

    begin = graph.saved_tensors_hooks.__init__

    def watched(
        hooks: graph.saved_tensors_hooks, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]
    ) -> None:
        def noting(tensor: Tensor) -> Any:
            note(packed := pack(tensor))
            return packed

        begin(hooks, noting, unpack)

    with (
        patch.object(graph.saved_tensors_hooks, "__init__", watched),
        graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        result = run()
    assert result.requires_grad, "nothing is kept: the result has no gradient"
    return kept


def tensors(state: object) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (tuple, list, dict)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)
