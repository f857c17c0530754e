"""What mixers do once per global batch: rules that change weights without gradients, and figures for the log. Other
modules may do so too."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from eyas.core.mixer import Mixer
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state

Figures = dict[str, dict[str, Tensor]]
"""By the module's name, then by their own."""


class AfterBatch:
    """Calls `after_batch` of every module of this stage that has one. Every rank of the layout makes one and calls it
    alike; nothing is communicated where no stage has such a module."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self.asked: dict[str, Any] = {
            name: module
            for name, module in model.named_modules()
            if getattr(type(module), "after_batch", Mixer.after_batch) is not Mixer.after_batch
        }
        state = parallel_state
        differ = state.get_tensor_and_data_parallel_group if layout.sequence else state.get_data_parallel_group
        self.group = differ(with_context_parallel=True)
        self.stages = layout.pipeline if any(_of_all_stages(bool(self.asked), layout.pipeline)) else 1

    def __call__(self) -> Figures:
        """The figures of all stages, on every rank."""
        found = {name: module.after_batch(self._total) for name, module in self.asked.items()}
        if self.stages > 1:  # a tensor that another rank unpickles is on its sender's GPU
            found = {name: {key: value.cpu() for key, value in told.items()} for name, told in found.items()}
        return {name: figures for stage in _of_all_stages(found, self.stages) for name, figures in stage.items()}

    def _total(self, value: Tensor) -> Tensor:
        """The sum over the ranks that saw other tokens, in a new tensor."""
        summed = value.clone()
        dist.all_reduce(summed, group=self.group)
        return summed


def _of_all_stages(here: Any, stages: int) -> list[Any]:
    """What each pipeline stage has, in order."""
    if stages == 1:
        return [here]
    everyone: list[Any] = [None] * stages
    dist.all_gather_object(everyone, here, group=parallel_state.get_pipeline_model_parallel_group())
    return everyone
