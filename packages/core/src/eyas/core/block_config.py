"""What a block may be beyond norm, mixers and residual add: the options of named blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from eyas.core.errors import ConfigError
from eyas.core.mixer_config import MixerConfig
from eyas.core.weights import Coordinates, Weight, replicated

AtRank = TypeVar("AtRank", bound=Coordinates)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Options of a named block; a block without a name has the defaults."""

    layers: str
    """Names of the layers that stand side by side, joined by `+`."""
    shared: bool = False
    """One set of weights for every place where the block stands; adapters and projection are each place's own."""
    reads: Literal["stream", "stream_and_embedding", "aside"] = "stream"
    """What the norm reads: the residual stream and, added to it, what the block before wrote aside; both beside the
    token embeddings, twice as wide; or what the block before wrote aside alone."""
    writes: Literal["stream", "aside"] = "stream"
    """Where the output goes: added to the residual stream, or aside, for the next block to read."""
    combine: Literal["sum", "normalised_mean"] = "sum"
    """The branches' sum; or their mean, each behind an RMSNorm of its own (after Hymba, Dong et al., 2024)."""
    projection: bool = False
    """A matrix of each place's own behind the branches, hidden_size to hidden_size."""
    output_multiplier: float | None = None
    """Scales the output; null means 1."""
    adapter_rank: int | None = None
    """Rank of what `adapters` adds to the weights."""
    adapters: dict[str, list[str]] = field(default_factory=dict)
    """Layer to the weights that each place of a shared block changes by a matrix of low rank, B A; weights joined by
    `+` have A in common (Zamba2, Glorioso et al., 2024)."""

    def __post_init__(self) -> None:
        if self.adapters and not self.shared:
            raise ConfigError("adapters tell the places of a shared block apart; set shared=true, or leave them out")
        if bool(self.adapters) != (self.adapter_rank is not None):
            raise ConfigError("adapter_rank and adapters go together; give both, or neither")
        if self.adapter_rank is not None and self.adapter_rank < 1:
            raise ConfigError(f"adapter_rank={self.adapter_rank} must be at least 1")


@dataclass(frozen=True)
class BlockSpec:
    """One block of a model: its layers, its options, and its name where it has one."""

    layers: tuple[str, ...]
    options: BlockConfig
    name: str | None = None

    def input_width(self, hidden_size: int) -> int:
        """Width of what the norm and the mixers read."""
        return hidden_size * (2 if self.options.reads == "stream_and_embedding" else 1)

    @property
    def pairs(self) -> bool:
        """Whether two branches stand side by side, which can lie on a half of the tensor-parallel ranks each."""
        return len(self.layers) == 2

    def places(self, at: AtRank, pair: int) -> dict[str, AtRank]:
        """The rank's place for each of the branches that it holds; see Coordinates.of_branch."""
        if not self.pairs:
            return dict.fromkeys(self.layers, at)
        found = {name: at.of_branch(branch, pair) for branch, name in enumerate(self.layers)}
        return {name: place for name, place in found.items() if place is not None}

    @property
    def norms_behind(self) -> int:
        """Branches that have a norm of their own behind them."""
        return len(self.layers) if self.options.combine == "normalised_mean" else 0

    def adapters(self, layers: Mapping[str, MixerConfig], hidden_size: int) -> dict[str, dict[str, Weight]]:
        """The adapters of one place: weights by name, by layer."""
        return {
            layer: adapter_weights(layers[layer].weights(hidden_size), groups, self.options.adapter_rank or 0)
            for layer, groups in self.options.adapters.items()
        }


def adapter_weights(adapted: Mapping[str, Weight], groups: Iterable[str], rank: int) -> dict[str, Weight]:
    """The matrices of low rank for each group of weights, `A_<names>` (rank, in) and `B_<name>` (out, rank): they are
    split along the axis of the weight that they change."""
    declared = {}
    for group in groups:
        names = group.split("+")
        first = adapted[names[0]]
        inner = {"axis": first.axis, "dim": 1} if first.axis is not None and first.dim == 1 else {}
        declared[f"A_{'_'.join(names)}"] = replicated(rank, first.shape[1]).but(**inner)
        for name in names:
            weight = adapted[name]
            outer = {"axis": weight.axis} if weight.dim == 0 else {}
            declared[f"B_{name}"] = replicated(weight.shape[0], rank).but(**outer)
    return declared
