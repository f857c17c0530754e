"""Upcycling: a dense model's weights in one whose MLPs have become mixtures of experts (He et al., 2024).

The dense layer's F neurons are cut into G shards, `[shard 0 .. shard G-1] * copies` are the experts, and a router's row
is the same for the G experts of a copy: a virtual group, which is chosen as a whole, so that a token reaches every
neuron as often as any other.
"""

# E experts, D hidden, F neurons of an expert

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from eyas.core.mixer import Mixer
from eyas.core.weights import Weight
from eyas.layers.initial import normal, seed_of
from eyas.layers.mlp import MLP
from eyas.parallel import checkpoint

MATRICES = ("gate", "up", "down")


@dataclass(frozen=True)
class Grown:
    """How a mixture's experts come from the dense layer in its place."""

    shards: int
    """G, the parts that the dense layer's neurons are cut into."""
    factors: Mapping[str, float]
    """What each of MATRICES is multiplied by."""


def grown(dense: MLP.Config, shards: int, scale: float) -> Grown:
    """With every matrix `scale` times as large; a multiplier of the dense layer's gate, which a mixture has not, goes
    into the matrix."""
    factors = dict.fromkeys(MATRICES, scale)
    factors["gate" if dense.gated else "up"] *= 1.0 if dense.gate_multiplier is None else dense.gate_multiplier
    return Grown(shards, factors)


def weight_scale(activation: str, gated: bool, copies: int, shards: int, top_k: int, score: str) -> float:
    """Factor of both projections that makes up for what the router's weights and the shards take from the output (He et
    al., 2024, section 3.3): the output of a mixture is a sum over top_k experts of a shard's output times a weight,
    1 / top_k of the chosen or 1 / (copies * shards) of all. A squared ReLU raises a factor of its input to the second
    power, so that two projections make the third; a gate does so where it is large."""
    missing = copies * shards**2 / top_k if score == "softmax" else shards
    return float(missing ** (1 / 3 if gated or activation == "squared_relu" else 1 / 2))


def load(model: nn.Module, layers: Mapping[str, Grown], path: Path, seed: int, router_std: float) -> None:
    """Fills this rank's stages of the model, some of whose layers have become mixtures, from the checkpoint `path` of
    the dense one. Every rank reads what it holds, whatever layouts the two have; all else is loaded by name. Routers
    are drawn from `seed`. All ranks call it. Raises CheckpointError for a checkpoint of another model."""
    mixtures = {
        f"{at}.": (module, layers[at.rpartition(".")[2]])
        for at, module in model.named_modules()
        if isinstance(module, Mixer) and at.rpartition(".")[2] in layers
    }
    wanted: dict[str, Any] = {
        name: shard for name, shard in checkpoint.sharded_weights(model).items() if not name.startswith(tuple(mixtures))
    }
    for at, (mixture, how) in mixtures.items():
        for name in MATRICES:
            if name in mixture.declared:
                wanted[at + name] = parts(at + name, getattr(mixture, name), mixture, how.shards)
    found = checkpoint.load({"model": wanted}, path)["model"]
    state = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    for at, (mixture, how) in mixtures.items():
        router_ED = mixture.declared["router"]
        state[f"{at}router"] = router(router_ED, how.shards, seed_of(seed, f"{at}router"), router_std)
        for name in MATRICES:
            if name in mixture.declared:
                state[at + name] = torch.stack(found[at + name]) * how.factors[name]
    model.load_state_dict(state)


def parts(name: str, own: Tensor, mixture: Mixer, shards: int) -> list[Any]:
    """This rank's part of each of its experts, as parts of the dense layer's tensor of the same name."""
    weight, place = mixture.declared[name.rpartition(".")[2]], mixture.place
    first = place.expert_rank * len(own)
    return [
        checkpoint.expert_of_dense(
            name,
            expert.detach(),
            dim=weight.dim - 1,
            part=(first + index) % shards * place.expert_tensor + place.expert_tensor_rank,
            of=shards * place.expert_tensor,
            copy=(first + index) // shards,
        )
        for index, expert in enumerate(own)
    ]


def router(declared: Weight, shards: int, seed: int, std: float) -> Tensor:
    """(E, D), a row for each copy of the dense layer, repeated for the experts that it is cut into."""
    experts, width = declared.shape
    rows = torch.zeros(experts // shards, width)
    normal(std)(rows, Generator().manual_seed(seed))
    return rows.repeat_interleave(shards, 0)
