"""One mixer at one size with one input: what every law is shown on, and how its modules and inputs are made."""

# S sequence, B batch, D hidden

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from eyas.core.errors import LayoutError
from eyas.core.mixer import Mixer, Placement
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import load_layer
from eyas.core.registry import mixer
from eyas.core.weights import Coordinates
from eyas.layers.initial import initialise
from eyas.parallel.context import Context

RANKS = (1, 2, 3, 4)
"""Numbers of tensor-parallel ranks that laws try, where the options can be split over them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mixer's options and the size of its input."""

    options: Mapping[str, Any]
    hidden_size: int
    length: int
    batch: int
    seed: int

    @property
    def config(self) -> MixerConfig:
        """The mixer's options, checked."""
        return load_layer(self.options, "options", self.hidden_size)

    @property
    def ranks(self) -> list[int]:
        """Numbers of tensor-parallel ranks that the options can be split over."""
        return [tensor for tensor in RANKS if splits(self.config, self.hidden_size, tensor)]

    def module(self, *, dtype: torch.dtype = torch.float64, tensor_rank: int = 0, tensor: int = 1) -> Mixer:
        """The mixer, or one rank's part of it, with random weights."""
        return build(self.config, self.hidden_size, seed=self.seed, dtype=dtype, tensor_rank=tensor_rank, tensor=tensor)

    def x(self, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """An input, (S, B, D)."""
        return noise(self.length, self.batch, self.hidden_size, seed=self.seed + seed, dtype=dtype)


def cases(options: Mapping[str, Any] | st.SearchStrategy[Any], hidden_size: int) -> st.SearchStrategy[Case]:
    """Cases of up to 20 tokens of a mixer whose options are given or drawn."""
    return st.builds(
        Case,
        options=options if isinstance(options, st.SearchStrategy) else st.just(options),
        hidden_size=st.just(hidden_size),
        length=st.integers(1, 20),
        batch=st.integers(1, 3),
        seed=st.integers(0, 999),
    )


def splits(config: MixerConfig, hidden_size: int, tensor: int) -> bool:
    """Whether `tensor` ranks can divide the mixer's weights."""
    try:
        config.check_split(hidden_size, Coordinates.of(tensor))
    except LayoutError:
        return False
    return True


def build(
    config: MixerConfig,
    hidden_size: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    tensor_rank: int = 0,
    tensor: int = 1,
) -> Mixer:
    """A mixer, or one rank's part of it, with weights that depend on the seed alone; none is zero, one or tiny."""
    place = Placement(
        tensor_rank=tensor_rank, tensor=tensor, expert_tensor_rank=tensor_rank, expert_tensor=tensor, dtype=dtype
    )
    module = mixer(config.kind).mixer(config, hidden_size, place)
    initialise(module, seed, 0.4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            weight = module.declared[name]
            shift = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + len(name)))
            parameter.add_(0.2 * shift[weight.local_slices(place)])
    return module


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Reproducible normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def documents(length: int, batch: int, seed: int = 0, share: float = 0.2) -> Tensor:
    """Document numbers (S, B) that rise at about `share` of the tokens."""
    starts = torch.rand(length, batch, generator=torch.Generator().manual_seed(seed)) < share
    return starts.long().cumsum(0)


def rows_of_documents(documents_SB: Tensor) -> Iterator[tuple[int, slice]]:
    """Each document as (row, slice of the sequence)."""
    for row in range(documents_SB.shape[1]):
        numbers = documents_SB[:, row].tolist()
        edges = [0, *(t for t in range(1, len(numbers)) if numbers[t] != numbers[t - 1]), len(numbers)]
        yield from ((row, slice(first, last)) for first, last in itertools.pairwise(edges))


def one_by_one(module: Mixer, x_SBD: Tensor, documents_SB: Tensor) -> Tensor:
    """The module's output (S, B, D) with every document computed by itself."""
    y_SBD = torch.empty_like(x_SBD)
    for row, part in rows_of_documents(documents_SB):
        y_SBD[part, row] = output(module, x_SBD[part, row, None], Context())[:, 0]
    return y_SBD


def output(module: Mixer, x_SBD: Tensor, context: Context) -> Tensor:
    """What a block adds for the mixer in one process, (S, B, D)."""
    if not module.config.owns_tokens:
        return module(x_SBD, context)
    own_SBD = module.call_on_own_tokens(x_SBD, context)
    return own_SBD + module(x_SBD, context) if module.config.sees_sequence else own_SBD


def decode(module: Mixer, x_SBD: Tensor) -> tuple[Tensor, Any]:
    """What a block adds for the mixer token by token, (S, B, D), and the state after the last one."""
    state, ys = module.initial_state(x_SBD.shape[1]), []
    for x_BD in x_SBD:
        y_BD = (
            module.call_on_own_tokens(x_BD[None], Context())[0] if module.config.owns_tokens else torch.zeros_like(x_BD)
        )
        if module.config.sees_sequence:
            read_BD, state = module.step(x_BD, state, Context())
            y_BD = y_BD + read_BD
        ys.append(y_BD)
    return torch.stack(ys), state
