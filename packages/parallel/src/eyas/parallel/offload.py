"""Adam's moments in the host's memory: a step brings them to the weights some at a time, and takes them back.

Megatron-Core's own offloading optimizer (optimizer/cpu_offloading/hybrid_optimizer.py, 0.16.1), which is for the
distributed optimizer, cannot have weights that are kept in float32, as a scan's decays are. Their parts have a history,
with which torch takes none (distrib_optimizer.py, line 424); those that stay on the GPU get no gradient
(`_set_sub_optimizer_grads`); loading looks for copies that they do not have (`_update_fp32_params_by_new_state`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from eyas.parallel.adam_state import MOMENTS, allocate


class MomentsOnHost:
    """Has an optimizer of Adam's kind, torch's or transformer-engine's, keep moments in the host's memory, where they
    are from the beginning and where a loaded state goes."""

    at_once = 32 * 2**20
    """Entries whose moments are with the weights together, or those of one larger weight: in float32 a quarter of a
    GiB."""

    def __init__(self, adam: Any, share: float) -> None:
        """share: of the entries of all weights; the first weights that reach it are chosen, so up to one more."""
        assert not adam.state, "moments that exist already would be lost"
        self.adam, self.step_with, self.load_with = adam, adam.step, adam.load_state_dict
        away = first_weights(adam.param_groups, share)
        self.places = {id(weight): {name: place_on_host(weight) for name in MOMENTS} for weight in away}
        allocate(adam, self.places)
        adam.step, adam.load_state_dict = self.step, self.load

    def weights(self) -> Iterator[Tensor]:
        return chain.from_iterable(group["params"] for group in self.adam.param_groups)

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
        """The weights of a group: those whose moments stay with them, then the others some at a time. An empty group
        is a part too, for an optimizer that counts its steps."""
        staying = [weight for weight in weights if id(weight) not in self.places]
        if staying or not weights:
            yield staying
        part: list[Tensor] = []
        entries = 0
        for weight in weights:
            if id(weight) in self.places:
                if part and entries + weight.numel() > self.at_once:
                    yield part
                    part, entries = [], 0
                part.append(weight)
                entries += weight.numel()
        if part:
            yield part

    def bring(self, weights: list[Tensor]) -> None:
        """Copies moments to where the weights are."""
        for weight in weights:
            for name, place in self.places.get(id(weight), {}).items():
                moment = torch.empty(place.shape, dtype=place.dtype, device=weight.device)
                moment.copy_(place, non_blocking=True)
                self.adam.state[weight][name] = moment

    def take(self, weights: list[Tensor]) -> None:
        """Copies moments back to the host, where their places are kept, and frees them beside the weights."""
        for weight in weights:
            for name, place in self.places.get(id(weight), {}).items():
                place.copy_(self.adam.state[weight][name], non_blocking=True)
                self.adam.state[weight][name] = place

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over a state in the form of torch's optimizers; moments that belong on the host go nowhere else."""
        numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
        others, moments = dict(state["state"]), {}
        for weight, number in zip(self.weights(), numbers, strict=True):
            if id(weight) in self.places:
                moments[weight] = others[number]
                others[number] = {name: value for name, value in others[number].items() if name not in MOMENTS}
        self.load_with({**state, "state": others})
        for weight, values in moments.items():
            for name, place in self.places[id(weight)].items():
                place.copy_(values[name])
                self.adam.state[weight][name] = place


def first_weights(groups: list[dict[str, Any]], share: float) -> list[Tensor]:
    """The first weights that have the share of all entries."""
    weights = [weight for group in groups for weight in group["params"]]
    wanted = share * sum(weight.numel() for weight in weights)
    chosen: list[Tensor] = []
    entries = 0
    for weight in weights:
        if entries < wanted:
            chosen.append(weight)
            entries += weight.numel()
    return chosen


def place_on_host(weight: Tensor) -> Tensor:
    """Zeros for a moment, in memory that a GPU can copy to and from while it works. The allocator rounds such memory up
    to a power of two."""
    return torch.zeros(weight.shape, dtype=weight.dtype, device="cpu", pin_memory=weight.is_cuda)


def wait_for_copies() -> None:
    """Returns when what was copied to the host is there."""
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()
