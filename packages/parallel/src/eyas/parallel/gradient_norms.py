"""The norm of the gradient of each kind of mixer, over the whole model: every entry of a tensor counts once, whichever
ranks hold it or parts of its sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyas.core.mixer import Mixer, held
from eyas.parallel.gradients import counts_here, main_gradient
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state
from eyas.parallel.optimizer_state import with_weights
from eyas.parallel.this_rank import device_here

EMBEDDING, HEAD, OTHERS = "embedding", "head", "others"
"""What is in no mixer; `others` are norms, adapters and projections. Meta tokens count as embedding."""


class GradientNorms:
    """A call gives the norms of this step's gradients, not clipped. Every rank makes one and calls it alike."""

    def __init__(self, model: nn.Module, optimizer: Any, layout: Layout) -> None:
        self.pieces = list(pieces_of(model, optimizer, layout))
        self.kinds = kinds_everywhere({kind for kind, *_ in self.pieces})
        state = parallel_state
        self.groups = (
            [(None, (False, True))]
            if layout.distributed_optimizer
            else [
                (state.get_model_parallel_group(), (False,)),
                (state.get_expert_tensor_model_pipeline_parallel_group(), (True,)),
            ]
        )
        """Ranks that hold different pieces, of weights that are not experts' (False) and of those that are (True)."""

    def __call__(self) -> dict[str, float]:
        """Norms by kind, on every rank; together they are the norm of the whole gradient."""
        together = torch.zeros(len(self.kinds), dtype=torch.float64, device=device_here())
        for group, which in self.groups:
            together += self._squares(which, group)
        return dict(zip(self.kinds, together.sqrt().tolist(), strict=True))

    def _squares(self, which: tuple[bool, ...], group: Any) -> Tensor:
        """Sum of the squares of each kind over the ranks of the group."""
        squares = torch.zeros(len(self.kinds), dtype=torch.float64, device=device_here())
        for number, kind in enumerate(self.kinds):
            gradients = [gradient(piece) for piece in self.pieces if piece[0] == kind and piece[1] in which]
            for dtype in {gradient.dtype for gradient in gradients}:
                alike = [gradient for gradient in gradients if gradient.dtype == dtype]
                norms = torch._foreach_norm(alike, 2, dtype=torch.promote_types(dtype, torch.float32))
                squares[number] += torch.stack(norms).double().square().sum()
        if dist.get_world_size(group) > 1:
            dist.all_reduce(squares, group=group)
        return squares


Piece = tuple[str, bool, nn.Parameter, slice]
"""Kind, whether it is an expert's, the weight, and which of its entries in a row this rank counts."""


def gradient(piece: Piece) -> Tensor:
    """The entries' gradient, as summed over microbatches and replicas."""
    _, _, parameter, part = piece
    return main_gradient(parameter).view(-1)[part]


def pieces_of(model: nn.Module, optimizer: Any, layout: Layout) -> Iterator[Piece]:
    """What this rank counts: a tensor that it has the first copy of; with the distributed optimizer, which sums parts
    of gradients alone, the part that it updates."""
    mixers = {name: module for name, module in model.named_modules() if isinstance(module, Mixer)}
    for name, parameter, weight, _ in held(model):
        if not weight.trained or not hasattr(parameter, "main_grad") or not counts_here(parameter):
            continue
        assert isinstance(parameter, nn.Parameter)
        kind = kind_of(name, mixers)
        if not layout.distributed_optimizer:
            yield kind, weight.expert, parameter, slice(None)
            continue
        for single in with_weights(optimizer):
            if parameter in single.model_param_gbuf_map:
                own = single._get_model_param_range_map(parameter)["param"]
                yield kind, weight.expert, parameter, slice(own.start, own.end)


def kind_of(name: str, mixers: dict[str, Mixer]) -> str:
    """The kind of the mixer that a weight is in, or what it is instead."""
    parts = name.split(".")
    inside = (mixers.get(".".join(parts[:length])) for length in range(len(parts) - 1, 0, -1))
    holder = next(filter(None, inside), None)
    if holder is not None:
        return holder.config.kind
    return {"embedding": EMBEDDING, "meta_tokens": EMBEDDING, "head": HEAD}.get(parts[0], OTHERS)


def kinds_everywhere(here: set[str]) -> list[str]:
    """The kinds of all ranks, in one order."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, here)
    return sorted(set().union(*everyone))
