"""Mends for Megatron-Core 0.16.1 on any device: checkpoints without helper processes, and torch's own Adam.

With transformer-engine's or Apex's fused Adam the count of steps belongs to a group of weights. Torch's Adam counts for
each weight, and the distributed optimizer (optimizer/distrib_optimizer.py) trips over that in three places: saving
before the first step fails an assertion (line 642), loading looks for a `step` in every weight's tensors and copies
into leaves that require gradients (line 946), and every weight is handed the same count tensor, which then counts once
per weight (line 825).
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@functools.cache
def install() -> None:
    """Applies the mends that this installation needs, once per process."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.optimizer import distrib_optimizer

    filesystem_async._results_queue = results_of_synchronous_saves()
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        _mend_saving(distrib_optimizer.DistributedOptimizer)
        _mend_loading(distrib_optimizer.DistributedOptimizer)


def results_of_synchronous_saves() -> queue.Queue[Any]:
    """A queue within this process, for what Megatron-Core keeps in a process of its own (filesystem_async.py, line 54):
    that one takes two seconds to start, imports the main module again, and outlives a rank that is killed."""
    return queue.Queue()


def _mend_saving(optimizer: Any) -> None:
    state_dict = optimizer.state_dict

    @functools.wraps(state_dict)
    def mended(self: Any) -> Any:
        """The state; before the first step, the state that Adam starts from."""
        allocate_adam_state(self.optimizer)
        return state_dict(self)

    optimizer.state_dict = mended


def _mend_loading(optimizer: Any) -> None:
    load_state_dict = optimizer.load_state_dict
    set_states = optimizer._set_main_param_and_optimizer_states

    @functools.wraps(load_state_dict)
    def load(self: Any, state: Any) -> None:
        """Loads the state, with a count of steps for each weight."""
        load_state_dict(self, state)
        for tensors in self.optimizer.state.values():
            tensors["step"] = tensors["step"].clone()

    @functools.wraps(set_states)
    @torch.no_grad()
    def set_without_step(self: Any, model_param: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Sets a weight and its moments; the count of steps is loaded with the groups."""
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        set_states(self, model_param, {**tensors, "step": state["step"]})

    optimizer.load_state_dict = load
    optimizer._set_main_param_and_optimizer_states = set_without_step


def allocate_adam_state(adam: torch.optim.Optimizer) -> None:
    """Gives torch's Adam the zero moments that its first step would, and leaves the weights alone."""
    for group in adam.param_groups:
        for weight in group["params"]:
            if not adam.state[weight]:
                adam.state[weight] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(weight, requires_grad=False),
                    "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
                }
