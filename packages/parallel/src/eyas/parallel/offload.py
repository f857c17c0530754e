"""Adam's moments in the host's memory: a step brings them to the weights some at a time, and takes them back.

Megatron-Core's own offloading optimizer (optimizer/cpu_offloading/hybrid_optimizer.py, 0.16.1) cannot have weights
that are kept in float32, as a scan's decays are: torch refuses their parts, those that stay on a GPU get no gradient,
and their state is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
AT_ONCE = 32 * 2**20
"""Weights whose moments are brought together: a quarter of a GiB."""


class MomentsOnHost:
    """Has an optimizer of Adam's kind, torch's or transformer-engine's, keep moments in the host's memory."""

    def __init__(self, adam: Any, share: float, at_once: int | None = None) -> None:
        """share: of the entries of all weights, from the first weight on; that or up to a weight more goes to the host.
        at_once: entries whose moments are with the weights together; one weight may have more."""
        self.adam, self.step_with, self.at_once = adam, adam.step, at_once or AT_ONCE
        self.away = first_weights(adam.param_groups, share)
        adam.step = self.step
        adam.register_load_state_dict_post_hook(lambda _: self.take_all())

    def step(self) -> None:
        """One step of all weights."""
        groups = self.adam.param_groups
        try:
            for group in groups:
                part = group
                for weights in self.parts(group["params"]):
                    part = {**group, "params": weights}
                    self.adam.param_groups = [part]
                    self.bring(weights)
                    self.step_with()
                    self.take(weights)
                group.update({option: value for option, value in part.items() if option != "params"})
        finally:
            self.adam.param_groups = groups
        wait_for_copies()

    def parts(self, weights: list[Tensor]) -> Iterator[list[Tensor]]:
        """The weights of a group: those whose moments stay with them, then the others some at a time."""
        staying = [weight for weight in weights if id(weight) not in self.away]
        if staying:
            yield staying
        part: list[Tensor] = []
        for weight in weights:
            if id(weight) in self.away:
                if part and sum(map(Tensor.numel, part)) + weight.numel() > self.at_once:
                    yield part
                    part = []
                part.append(weight)
        if part:
            yield part

    def bring(self, weights: list[Tensor]) -> None:
        """Copies moments to where the weights are."""
        for weight, state in self.of_away(weights):
            for name in MOMENTS:
                moment = torch.empty(state[name].shape, dtype=state[name].dtype, device=weight.device)
                moment.copy_(state[name], non_blocking=True)
                state[name] = moment

    def take(self, weights: list[Tensor]) -> None:
        """Moves moments to the host."""
        for _, state in self.of_away(weights):
            for name in MOMENTS:
                moment = place_on_host(state[name])
                moment.copy_(state[name], non_blocking=True)
                state[name] = moment

    def take_all(self) -> None:
        """Moves all moments that a loaded state has left with the weights."""
        for group in self.adam.param_groups:
            self.take(group["params"])
        wait_for_copies()

    def of_away(self, weights: list[Tensor]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Those whose moments belong on the host, where they have any yet."""
        for weight in weights:
            state = self.adam.state.get(weight)
            if state and id(weight) in self.away:
                yield weight, state


def first_weights(groups: list[dict[str, Any]], share: float) -> set[int]:
    """Identities of the first weights that have the share of all entries."""
    weights = [weight for group in groups for weight in group["params"]]
    wanted = share * sum(weight.numel() for weight in weights)
    chosen, entries = set(), 0
    for weight in weights:
        if entries < wanted:
            chosen.add(id(weight))
            entries += weight.numel()
    return chosen


def place_on_host(moment: Tensor) -> Tensor:
    """Memory for a moment that a GPU can copy to while it works."""
    return torch.empty(moment.shape, dtype=moment.dtype, device="cpu", pin_memory=moment.is_cuda)


def wait_for_copies() -> None:
    """Returns when what was copied to the host is there."""
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()
