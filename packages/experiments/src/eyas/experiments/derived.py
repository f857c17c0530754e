"""Options of a model that follow from others: from how its channels are divided, and from what it has to cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eyas.core.allocation import AllocationConfig, allocated
from eyas.core.errors import ConfigError
from eyas.core.schema import load
from eyas.experiments.match import MatchConfig, matched

ALLOCATED = re.compile(
    r"[+~]*model\.(pattern|hidden_size|layers\.(ssm|attn)\.num_heads|layers\.attn\.num_kv_heads"
    r"|layers\.ffn\.intermediate_size)="
)
"""Overrides of what `allocation` decides."""


def with_derived(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain configuration with what `allocation` and `match` decide in its model; a line is printed for what was
    solved. Raises ConfigError where the command line asks for something else, or nothing fits."""
    found = dict(config)
    allocation = load(AllocationConfig, config.get("allocation") or {}, "allocation")
    match = load(MatchConfig, config.get("match") or {}, "match")
    if config.get("start_from") is not None and (allocation.shares or match.quantity):
        raise ConfigError("start_from decides the model; leave out allocation and match")
    if allocation.shares is not None:
        refuse(overrides, ALLOCATED, "allocation.shares")
        found["model"] = allocated(allocation, found["model"])
    if match.quantity is not None:
        refuse(overrides, re.compile(rf"[+~]*model\.({'|'.join(map(re.escape, match.options))})="), "match.options")
        solved = matched(match, found["model"], found["data"])
        found["model"] = solved.model
        print(f"matched {match.quantity} to {match.to}: {solved}", flush=True)
    return found


def refuse(overrides: Sequence[str], decided: re.Pattern[str], by: str) -> None:
    """Raises ConfigError for an override of what another option decides."""
    for override in overrides:
        if decided.match(override):
            raise ConfigError(f"{by} decides what {override} sets; leave one of them out")
