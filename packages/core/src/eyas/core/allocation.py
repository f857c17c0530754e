"""How Falcon-H1 divides the channels of a block among state space, attention and MLP (its report, section 2.1).

The report's ablation gives each of the three some eighths of a pool of its own: 4096 channels of Mamba-2, 6144 of
attention queries and 4864 of the MLP at a width of 1280. With at least one eighth each there are 21 divisions, in three
orders of the blocks. The number of key-value heads is not published; here three query heads share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from eyas.core.errors import ConfigError

Order = Literal["SAM", "SA_M", "S_A_M"]
PARTS = 8
WIDTH, POOLS = 1280, {"ssm": 4096, "attn": 6144, "ffn": 4864}
PATTERNS: dict[Order, list[str]] = {
    "SAM": ["ssm+attn+ffn"],
    "SA_M": ["ssm+attn", "ffn"],
    "S_A_M": ["ssm", "attn", "ffn"],
}
SHARING = 3
"""Query heads to a key-value head."""


@dataclass(frozen=True, kw_only=True)
class AllocationConfig:
    """The `allocation` options: they decide width, pattern and layer sizes of a model with layers ssm, attn and ffn."""

    shares: tuple[int, int, int] | None = None
    """Eighths of the channels of state space, attention and MLP; null leaves the model as it is."""
    order: Order = "SA_M"
    """All side by side; state space and attention side by side, then MLP; or one after the other."""
    scale: int = 1
    """All widths are divided by it."""

    def __post_init__(self) -> None:
        if self.shares is not None and (min(self.shares) < 1 or sum(self.shares) != PARTS):
            raise ConfigError(f"shares={list(self.shares)} must be three numbers from 1 on whose sum is {PARTS}")
        if self.scale < 1 or any(width % (PARTS * self.scale) for width in (WIDTH, *POOLS.values())):
            raise ConfigError(f"scale={self.scale} must divide an eighth of every width; choose 1, 2, 4, 8, 16 or 32")


def every_division() -> list[tuple[int, int, int]]:
    """The 21 divisions, those with most state space last."""
    return [(s, a, PARTS - s - a) for s in range(1, PARTS) for a in range(1, PARTS - s)]


def allocated(allocation: AllocationConfig, model: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the plain `model` group with the channels divided; the heads keep their size. Raises ConfigError where
    the model lacks a layer, or its heads do not divide the channels."""
    assert allocation.shares is not None
    changed: dict[str, Any] = deepcopy(dict(model))
    layers = changed.get("layers") or {}
    if set(layers) != set(POOLS):
        raise ConfigError(
            "allocation.shares divide channels among layers ssm, attn and ffn, but the model has "
            f"{', '.join(layers) or 'none'}; leave allocation out, or choose such a model"
        )
    widths = {
        name: pool * share // (PARTS * allocation.scale)
        for (name, pool), share in zip(POOLS.items(), allocation.shares, strict=True)
    }
    layers["ssm"]["num_heads"] = heads("ssm", widths["ssm"], layers["ssm"])
    layers["attn"]["num_heads"] = queries = heads("attn", widths["attn"], layers["attn"])
    if queries % SHARING:
        raise ConfigError(
            f"allocation gives layer attn {queries} heads, of which every {SHARING} share keys and values; change "
            "model.layers.attn.head_dim or allocation.scale"
        )
    layers["attn"]["num_kv_heads"] = queries // SHARING
    layers["ffn"]["intermediate_size"] = widths["ffn"]
    changed["hidden_size"] = WIDTH // allocation.scale
    changed["pattern"] = list(PATTERNS[allocation.order])
    return changed


def heads(layer: str, channels: int, options: Mapping[str, Any]) -> int:
    """The number of heads that so many channels are. Raises ConfigError where it is no whole one."""
    head_dim = options.get("head_dim")
    if not isinstance(head_dim, int) or head_dim < 1:
        raise ConfigError(
            f"allocation divides the channels of layer {layer} into heads, but model.layers.{layer}.head_dim is "
            f"{'not set' if head_dim is None else head_dim}; give it a whole number of channels"
        )
    if channels % head_dim:
        raise ConfigError(
            f"allocation gives layer {layer} {channels} channels, which head_dim={head_dim} does not divide; change "
            f"model.layers.{layer}.head_dim or allocation.scale"
        )
    return channels // head_dim
