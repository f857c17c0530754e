"""What an optimizer of Adam's kind keeps for its weights: two moments and a count of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def counts_by_group(adam: Any) -> bool:
    """Whether an optimizer counts its steps for a group of weights: transformer-engine's and Apex's, where torch's does
    for each weight."""
    return type(adam).__name__ == "FusedAdam"


def allocate(adam: Any, places: Mapping[int, Mapping[str, Tensor]] | None = None) -> None:
    """Gives every weight without a state the one that Adam's first step would, and leaves the weights alone.

    places: the moments, zeros, of weights that do not have theirs beside them, by the weight's `id`.
    """
    for group in adam.param_groups:
        for weight in group["params"]:
            if adam.state[weight]:
                continue
            if places and id(weight) in places:
                adam.state[weight] = dict(places[id(weight)])
            else:
                adam.state[weight] = {name: torch.zeros_like(weight, requires_grad=False) for name in MOMENTS}
            if not counts_by_group(adam):  # beside the weight: a step in one pass reads it there
                adam.state[weight]["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
