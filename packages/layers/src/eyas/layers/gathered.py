"""What matrices read between two collectives: gathered for them, and not kept as a whole for the backward pass."""

# S sequence, s this rank's part of it, B batch, D hidden

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from eyas.layers.remade import Remade, remaking
from eyas.parallel.context import Context


class Gathered:
    """x (s, B, D) as `whole` (S, B, D). Where ranks split the sequence, readers inside `remaking()` keep this rank's
    part alone, and the backward pass gathers it again."""

    def __init__(
        self,
        x_sBD: Tensor,
        context: Context,
        *,
        whole: bool = True,
        made_from: tuple[Tensor, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        """`whole` says whether anyone reads the whole, and `made_from` from what x is made and how, where x itself is
        not kept either."""
        self.whole = context.gather(x_sBD) if whole else x_sBD
        self.remade: list[Remade] = []
        if context.forgotten or not torch.is_grad_enabled():
            return
        source, make = made_from or (x_sBD, unchanged)
        if made_from is not None:
            self.remade.append(Remade(x_sBD, source, lambda source: partial(make, source)))
        if whole and context.shards > 1:
            self.remade.append(Remade(self.whole, source, lambda source: context.begin_gather(make(source))))

    @contextmanager
    def remaking(self) -> Iterator[None]:
        """Inside, readers keep nothing of the whole."""
        if not self.remade:  # whoever else decides what is kept, decides
            yield
            return
        with remaking(self.remade):
            yield

    def results(self, given: Iterable[Tensor]) -> None:
        """Tells what the readers gave: as soon as one's gradient arrives, the backward pass begins to gather."""
        for result in given:
            if result.requires_grad:
                for remade in self.remade:
                    result.register_hook(remade.start)


def unchanged(x: Tensor) -> Tensor:
    return x
