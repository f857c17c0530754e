"""Tensors that are not kept for the backward pass but made again in it, whoever reads them, through whichever view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import graph

Finish = Callable[[], Tensor]
"""Waits for a tensor that is being made."""


class Remade:
    """A tensor that is made again from another, `source`: once in a backward pass, and free when its last reader has
    seen it. Nothing else is kept of it."""

    def __init__(self, tensor: Tensor, source: Tensor, begin: Callable[[Tensor], Finish]) -> None:
        """`begin` starts to make the tensor again from the source, outside of differentiation."""
        self.address, self.stride = address(tensor), tensor.stride()
        self.source, self.begin = source.detach(), begin
        self.kept = False
        """Whether any reader keeps it: the backward pass will ask for it."""
        self.making: Finish | None = None
        self.made: Tensor | None = None
        if tensor.requires_grad:  # its gradient is complete when all readers are done
            tensor.register_hook(self.forget)

    def start(self, gradient: Tensor | None = None) -> None:
        """Begins to make the tensor, beside other work where the backend can; a hook of what its readers gave."""
        if self.kept and self.making is None:
            with torch.no_grad():
                self.making = self.begin(self.source)

    def value(self) -> Tensor:
        """The tensor as it was."""
        if self.made is None:
            self.start()
            assert self.making is not None
            with torch.no_grad():
                self.made = self.making()
            assert self.made.stride() == self.stride and self.made.storage_offset() == 0
        return self.made

    def forget(self, gradient: Tensor | None = None) -> None:
        """Frees what was made; a hook of the tensor itself."""
        self.making = self.made = None


class View(NamedTuple):
    """What autograd holds instead of a view of a remade tensor."""

    remade: Remade
    source: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


@contextmanager
def remaking(tensors: Iterable[Remade]) -> Iterator[None]:
    """Inside, autograd keeps none of these tensors and no view of one."""
    by_address = {remade.address: remade for remade in tensors}

    def pack(tensor: Tensor) -> Tensor | View:
        remade = by_address.get(address(tensor))
        if remade is None:
            return tensor
        remade.kept = True
        return View(remade, remade.source, tensor.size(), tensor.stride(), tensor.storage_offset())

    def unpack(packed: Tensor | View) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed.remade.value().as_strided(packed.size, packed.stride, packed.offset)

    with graph.saved_tensors_hooks(pack, unpack):
        yield


def address(tensor: Tensor) -> int:
    """Where a tensor's memory begins, the same for all views of it."""
    return tensor.untyped_storage().data_ptr()
