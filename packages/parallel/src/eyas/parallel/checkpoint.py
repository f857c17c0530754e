"""Sharded checkpoints through Megatron-Core's dist_checkpointing: whole or not there, and loadable on any layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from eyas.core.errors import CheckpointError
from eyas.core.mixer import held
from eyas.parallel.checkpoint_folder import UNFINISHED, delete, latest
from eyas.parallel.megatron import CheckpointingException, ShardedTensor, dist_checkpointing, parallel_state

__all__ = ["expert_of_dense", "latest", "load", "save", "sharded_weights"]


def sharded_weights(model: nn.Module, *, tied_copy: bool = False) -> dict[str, ShardedTensor]:
    """Each declared tensor of this rank as its part of a whole tensor, by global name.

    `tied_copy` says that this stage's embedding is a copy of the first stage's.
    """
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    shards = {}
    for name, tensor, weight, place in held(model):
        stage_copy = int(tied_copy and name.startswith("embedding."))
        expert_replica = parallel_state.get_expert_data_parallel_rank()
        shards[name] = ShardedTensor.from_rank_offsets(
            name,
            tensor,
            *weight.parts(place),
            replica_id=(
                stage_copy,
                place.tensor_rank % weight.copies(place),
                expert_replica if weight.expert else replica,
            ),
            allow_shape_mismatch=name.endswith(VOCABULARY),
        )
    return shards


def expert_of_dense(name: str, expert: Tensor, *, dim: int, part: int, of: int, copy: int) -> ShardedTensor:
    """An expert's tensor as one of so many parts, along a dimension, of the dense tensor called `name`; `copy` counts
    the experts that are the same part."""
    replica = parallel_state.get_expert_data_parallel_rank()
    return ShardedTensor.from_rank_offsets(name, expert, (dim, part, of), replica_id=(0, copy, replica))


VOCABULARY = ("embedding.weight", "head.weight")
"""Weights whose padding depends on the layout."""


def save(state: dict[str, Any], path: Path) -> None:
    """Writes the ranks' shards to the folder `path`, which appears only when it is complete. All ranks call it."""
    unfinished = path.with_name(path.name + UNFINISHED)
    if dist.get_rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(state, str(unfinished))
    dist.barrier()
    if dist.get_rank() == 0:
        if path.exists():
            delete(path)
        unfinished.rename(path)
    dist.barrier()


def load(template: dict[str, Any], path: Path) -> dict[str, Any]:
    """Reads the parts that `template` describes from the folder `path`. All ranks call it.

    Raises CheckpointError for a folder that is missing, unfinished or of another model.
    """
    if not path.is_dir() or path.name.endswith(UNFINISHED):
        raise CheckpointError(f"{path} is not a complete checkpoint; give a folder that a run has finished writing")
    if not dist_checkpointing.check_is_distributed_checkpoint(str(path)):
        raise CheckpointError(f"{path} holds no checkpoint; its metadata.json is missing")
    try:
        return dist_checkpointing.load(template, str(path))
    except (CheckpointingException, CheckpointException) as error:
        raise CheckpointError(f"{path} does not fit this model: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What is wrong, out of an upstream error; torch's CheckpointException collects those of all ranks."""
    causes = [cause for cause, _ in getattr(error, "failures", {}).values()]
    text = str(causes[0] if causes else error).strip()
    return text.splitlines()[0] if text else type(error).__name__
