"""What of a layout is this rank's: its device, its place, its stages, its share of the data."""

from __future__ import annotations

import torch

from eyas.core.mixer import Placement
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state
from eyas.parallel.own_pieces import OwnPieces


def device_here() -> torch.device:
    """The device that this worker computes on: of several GPUs the one that `groups.start_world` chose."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def context_here(layout: Layout, dtype: torch.dtype) -> Context:
    """This rank's context, after `groups.initialise(layout)`."""
    place = Placement(
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor=layout.tensor,
        expert_rank=parallel_state.get_expert_model_parallel_rank(),
        expert=layout.expert,
        expert_tensor_rank=parallel_state.get_expert_tensor_parallel_rank(),
        expert_tensor=layout.inside_experts,
        branches=layout.branches,
        dtype=dtype,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    return Context(
        place,
        sequence=layout.sequence,
        dispatcher=layout.dispatcher,
        own_pieces=own_pieces_here(layout),
        exchange=layout.context_exchange,
        recompute=layout.recompute,
        loss_chunk=layout.loss_chunk,
    )


def own_pieces_here(layout: Layout) -> OwnPieces | None:
    """Which pieces of its sequences this rank has; None where it has them whole."""
    if layout.context == 1:
        return None
    return OwnPieces(parallel_state.get_context_parallel_rank(), layout.context, layout.context_order)


def stages_here(layout: Layout) -> range:
    """Numbers of this rank's pipeline stages."""
    return layout.stages_of(parallel_state.get_pipeline_model_parallel_rank())


def replica_here() -> int:
    """This rank's replica: the number of its share of every batch."""
    return int(parallel_state.get_data_parallel_rank())
