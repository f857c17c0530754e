"""A recurrence over chunks of tokens whose backward computes each chunk anew: it keeps one state a chunk."""
# S sequence, B batch, L tokens of a chunk, Z chunks

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Chunk = Callable[..., tuple[Tensor, Tensor]]
"""chunk(state, starts, *sequences, *constants): the output of a chunk (L, B, ...) and the state after it, in plain
differentiable operations. `starts` (L, B) is true where a token begins a document, or None."""


def scan_chunks(
    chunk: Chunk,
    state: Tensor,
    starts_SB: Tensor | None,
    sequences: tuple[Tensor, ...],
    constants: tuple[Tensor, ...] = (),
    *,
    length: int,
) -> tuple[Tensor, Tensor]:
    """Output (S, B, ...) and last state of a recurrence that starts in `state`; a chunk has `length` tokens.

    sequences: (S, B, ...) each, of which a chunk sees its part; constants: what all chunks see whole. Costs a second
    forward pass during the backward pass.
    """
    scanned: tuple[Tensor, Tensor] = ChunkScan.apply(
        chunk, length, len(sequences), starts_SB, state, *sequences, *constants
    )
    return scanned


class ChunkScan(torch.autograd.Function):
    """The scan as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any, chunk: Chunk, length: int, count: int, starts_SB: Tensor | None, state: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        pieces = list(chunks(tensors[0].shape[0], length))
        entered_Z = state.new_empty(len(pieces), *state.shape)
        ys = []
        for entered, at in zip(entered_Z, pieces, strict=True):
            entered.copy_(state)
            y, state = chunk(state, part(starts_SB, at), *(t[at] for t in tensors[:count]), *tensors[count:])
            ys.append(y)
        ctx.save_for_backward(entered_Z, starts_SB, *tensors)
        ctx.chunk, ctx.length, ctx.count = chunk, length, count
        return torch.cat(ys), state

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        entered_Z, starts_SB, *tensors = ctx.saved_tensors
        sequences, constants = tensors[: ctx.count], tensors[ctx.count :]
        dsequences = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in sequences]
        dconstants = [torch.zeros_like(t) for t in constants]
        pieces = list(chunks(sequences[0].shape[0], ctx.length))
        for entered, at in reversed(list(zip(entered_Z, pieces, strict=True))):
            inputs = [t.detach().requires_grad_() for t in (entered, *(t[at] for t in sequences), *constants)]
            with torch.enable_grad():
                outputs = ctx.chunk(inputs[0], part(starts_SB, at), *inputs[1:])
            dstate, *gradients = torch.autograd.grad(outputs, inputs, (dy[at], dstate))
            for whole, gradient in zip(dsequences, gradients, strict=False):
                whole[at] = gradient
            for total, gradient in zip(dconstants, gradients[ctx.count :], strict=True):
                total += gradient
        return None, None, None, None, dstate, *dsequences, *dconstants


def chunks(S: int, length: int) -> Iterator[slice]:
    """Where the chunks lie; the last one may be shorter."""
    return (slice(start, min(start + length, S)) for start in range(0, S, length))


def part(values: Tensor | None, at: slice) -> Tensor | None:
    return None if values is None else values[at]
