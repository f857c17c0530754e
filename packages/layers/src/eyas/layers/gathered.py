"""What matrices read between two collectives: gathered for them, and not kept as a whole for the backward pass."""

# S sequence, s this rank's part of it, B batch, D hidden

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from eyas.layers.dropped import Dropped, dropping
from eyas.parallel.context import Context


class Gathered:
    """x (s, B, D) as `whole` (S, B, D). Where ranks split the sequence, readers inside `dropping()` keep this rank's
    part alone, and the backward pass gathers it again."""

    def __init__(self, x_sBD: Tensor, context: Context) -> None:
        self.whole = context.gather(x_sBD)
        self.dropped: list[Dropped] = []
        if context.splits_sequence and torch.is_grad_enabled():
            self.dropped.append(Dropped(self.whole, x_sBD, context.begin_gather))

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Inside, readers keep nothing of the whole."""
        if not self.dropped:  # whoever else decides what is kept, decides
            yield
            return
        with dropping(self.dropped):
            yield

    def results(self, given: Iterable[Tensor]) -> None:
        """Tells what the readers gave: as soon as one's gradient arrives, the backward pass begins to gather."""
        for result in given:
            for dropped in self.dropped if result.requires_grad else ():
                result.register_hook(dropped.start)
