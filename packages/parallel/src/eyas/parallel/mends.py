"""Mends for Megatron-Core's distributed optimizer around torch's own Adam.

With transformer-engine's or Apex's fused Adam the count of steps belongs to a group of weights. Torch's Adam counts for
each weight, and megatron-core 0.16.1 (optimizer/distrib_optimizer.py) trips over that in three places, on any device:
saving before the first step fails an assertion (line 642), loading looks for a `step` in every weight's tensors and
copies into leaves that require gradients (line 946), and every weight is handed the same count tensor, which then
counts once per weight (line 825).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@functools.cache
def install() -> bool:
    """Applies the mends, once per process; returns whether any was needed: not with a fused Adam."""
    from megatron.core.optimizer import distrib_optimizer

    if distrib_optimizer.HAVE_APEX_OR_TE:
        return False
    optimizer = distrib_optimizer.DistributedOptimizer
    _mend_saving(optimizer)
    _mend_loading(optimizer)
    return True


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
