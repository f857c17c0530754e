"""Work that keeps only what it is given: the backward pass computes it again (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eyas.core.recompute import FULL
from eyas.parallel.context import Context

Work = Callable[..., Tensor]


def recomputed(work: Work, context: Context, *tensors: Tensor) -> Tensor:
    """work(context, *tensors), of which autograd keeps the tensors alone. Its second pass, whose context says that it
    repeats, communicates what the first did, on all ranks in the same order, and stops behind the last tensor that the
    backward pass needs."""
    if not torch.is_grad_enabled():
        return work(context, *tensors)
    contexts = chain((context,), repeat(replace(context, repeats=True)))
    result: Tensor = checkpoint(lambda *given: work(next(contexts), *given), *tensors, use_reentrant=False)
    return result


def block_output(work: Work, context: Context, x_sBD: Tensor) -> Tensor:
    """A block's work, recomputed as a whole where the layout says so."""
    if context.recompute != FULL:
        return work(context, x_sBD)
    return recomputed(work, replace(context, recompute=(), forgotten=True), x_sBD)
