"""The optimizer's state in a checkpoint: by weight, and the same whichever of Megatron-Core's optimizers holds it.

Each of them has a form of its own: numbered weights in groups, master weights beside them or among the moments, and a
prefix where experts make it two optimizers. So a run could not go on with another one, or with other blocks on a stage.
A checkpoint of ours has Adam's two moments, the master weights where a weight is narrower, and one count of steps. The
options of a group, learning rate and decay, are set anew at every step and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from eyas.parallel.adam_state import counts_by_group
from eyas.parallel.megatron import LocalNonpersistentObject, ShardedTensor, dict_list_map_outplace, nested_values
from eyas.parallel.over_ranks import over_ranks

Weights = Mapping[str, ShardedTensor]
FULLY_RESHARDABLE = {"distrib_optim_sharding_type": "fully_reshardable"}
"""The one form of the distributed optimizer's state that has whole weights."""
PREFIX, MASTER = "optimizer.state.", "fp32_param."
"""What precedes a weight's name in the forms of all optimizers; the distributed one's master weights are `param.`."""


def sharded(optimizer: Any, weights: Weights, *, loading: bool) -> dict[str, Any]:
    """The state of a ChainedOptimizer as parts of whole tensors by name, to save or to load into. All ranks call it."""
    tensors = {}
    for single in with_weights(optimizer):
        theirs = single.sharded_state_dict(weights, is_loading=loading, metadata=FULLY_RESHARDABLE)
        for tensor in nested_values(theirs):
            if isinstance(tensor, ShardedTensor) and not is_weight_itself(tensor, weights):
                tensors[name_of(tensor)] = replace(tensor, key=name_of(tensor))
    state = {"tensors": tensors} if tensors else {}  # of an empty one Megatron-Core complains that other ranks lack it
    return state | {"step": steps_done(optimizer)}


def load(optimizer: Any, weights: Weights, state: Mapping[str, Any]) -> None:
    """Takes over the loaded tensors of `sharded`, after the model has taken over its weights."""

    def filled(leaf: Any) -> Any:
        if isinstance(leaf, LocalNonpersistentObject):
            return leaf.unwrap()
        if not isinstance(leaf, ShardedTensor):
            return leaf
        if is_weight_itself(leaf, weights):
            return weights[weight_of(leaf)].data.detach()
        return state["tensors"][name_of(leaf)]

    for single in with_weights(optimizer):
        theirs = single.sharded_state_dict(weights, is_loading=True, metadata=FULLY_RESHARDABLE)
        whole = dict_list_map_outplace(filled, theirs)
        inner = whole.get("optimizer", whole)
        if "state" in inner and not counts_by_group(single.optimizer):
            inner["state"]["common_step"] = torch.tensor(state["step"])
        for group in inner["param_groups"]:
            group["step"] = int(state["step"])
        single.load_state_dict(whole)


def with_weights(optimizer: Any) -> list[Any]:
    """The optimizers that have weights of this stage to change, on every replica of it: all of it may be frozen, or
    without experts. The state of none cannot be saved (distrib_optimizer.py, line 642, asserts a count of steps)."""
    return [single for single in optimizer.chained_optimizers if has_weights(single)]


def has_weights(single: Any) -> bool:
    """Whether there is anything to change; a replica's part of what the distributed optimizer changes may be empty."""
    if hasattr(single, "buffers"):
        return bool(single.buffers)
    return any(group["params"] for group in single.param_groups)


def steps_done(optimizer: Any) -> float:
    """How often Adam has changed the weights of any stage; all ranks call it."""
    adams = [single.optimizer for single in with_weights(optimizer)]
    holders = (holder for adam in adams for holder in (*adam.state.values(), *adam.param_groups))
    here = max((float(holder["step"]) for holder in holders if "step" in holder), default=0.0)
    return float(over_ranks([here]).max())


def name_of(tensor: ShardedTensor) -> str:
    """The key in a checkpoint of ours."""
    key: str = tensor.key
    return key.replace(f"{PREFIX}param.", PREFIX + MASTER, 1) if key.startswith(f"{PREFIX}param.") else key


def weight_of(tensor: ShardedTensor) -> str:
    """Name of the weight that a tensor of the state belongs to."""
    return name_of(tensor).removeprefix(PREFIX).partition(".")[2]


def is_weight_itself(tensor: ShardedTensor, weights: Weights) -> bool:
    """Whether the tensor is the master of a weight that needs none."""
    is_master = name_of(tensor).startswith(PREFIX + MASTER)
    return is_master and weights[weight_of(tensor)].dtype.itemsize >= torch.float32.itemsize
