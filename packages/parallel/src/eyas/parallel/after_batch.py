"""What mixers do once per global batch: rules that change weights without gradients, and figures for the log."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from eyas.core.mixer import Mixer
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state


def after_batch(model: nn.Module, layout: Layout) -> dict[str, dict[str, Tensor]]:
    """Calls every mixer's `after_batch`. Returns the figures of all stages' mixers by module name, on every rank."""
    group = parallel_state.get_data_parallel_group()
    if layout.sequence:
        group = parallel_state.get_tensor_and_data_parallel_group()

    def total(value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed, group=group)
        return summed

    found = {
        name: figures
        for name, module in model.named_modules()
        if isinstance(module, Mixer) and (figures := module.after_batch(total))
    }
    return found if layout.pipeline == 1 else _of_all_stages(found, layout.pipeline)


def _of_all_stages(found: dict[str, dict[str, Tensor]], stages: int) -> dict[str, dict[str, Tensor]]:
    everyone: list[Any] = [None] * stages
    dist.all_gather_object(everyone, found, group=parallel_state.get_pipeline_model_parallel_group())
    return {name: figures for stage in everyone for name, figures in stage.items()}
