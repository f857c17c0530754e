"""The mixer contract: what a plugin implements.

A mixer maps the normed input x (S, B, D) to a partial sum (S, B, D) over the tensor-parallel ranks. Its weights are the
ones that its Config declares; it communicates nothing. The block around it gathers the input, adds the branches and
reduces the sum once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from eyas.core.mixer_config import MixerConfig
from eyas.core.weights import Weight


@dataclass(frozen=True)
class Placement:
    """Where a module's weights live: this rank's place among the tensor-parallel ranks, and the compute dtype."""

    tensor_rank: int = 0
    tensor: int = 1
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


class MixerContext(Protocol):
    """What a mixer may ask of the layout during a forward pass."""

    @property
    def documents_SB(self) -> Tensor | None:
        """Document number of each token (S, B), constant within a document; None where there is one document a row."""
        ...

    def sum_over_copies(self, partial: Tensor, weight: Weight) -> Tensor:
        """Sum of `partial` over the ranks that hold the same unit of the weight's axis; differentiable. For a norm
        whose statistics span more heads than one rank has."""
        ...


class Mixer(nn.Module):
    """Base of every mixer. Subclasses define `Config` and `forward`, and for decoding `initial_state` and `step`."""

    Config: ClassVar[type[MixerConfig]]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The declared weights are attributes."""

    def __init__(self, config: MixerConfig, hidden_size: int, place: Placement) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.place = place
        self.declared = config.weights(hidden_size)
        for name, weight in self.declared.items():
            self.register_parameter(name, empty_parameter(weight, place))

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        """x: (S, B, D), normed input, the whole sequence. Returns (S, B, D), this rank's part of the sum."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> Any:
        """Decoding state before the first token, for `batch` sequences: tensors and numbers in tuples, lists and dicts.
        Every tensor has one dimension that runs over the sequences."""
        raise NotImplementedError(f"{self.config.kind} does not decode step by step")

    def step(self, x_BD: Tensor, state: Any, context: MixerContext) -> tuple[Tensor, Any]:
        """One token: x (B, D) and the state so far to the output (B, D) and the next state; equal to `forward`. The
        state that it was given stays as it is, so that a text can be continued in several ways."""
        raise NotImplementedError(f"{self.config.kind} does not decode step by step")

    def prefill(self, x_SBD: Tensor, state: Any, context: MixerContext) -> tuple[Tensor, Any]:
        """Several tokens: x (S, B, D) and the state so far to the outputs (S, B, D) and the next state. Step by step,
        unless a mixer knows how to do it in one pass."""
        outputs = []
        for x_BD in x_SBD:
            y_BD, state = self.step(x_BD, state, context)
            outputs.append(y_BD)
        return torch.stack(outputs), state

    def bias_after_sum(self) -> Tensor | None:
        """What is added once to the sum over the ranks, (D,): the declared `output_bias`, if there is one."""
        return getattr(self, "output_bias", None)

    def local(self, name: str) -> int:
        """Units of the named weight's axis that this rank holds (its number of heads, groups or neurons)."""
        axis = self.declared[name].axis
        assert axis is not None
        return axis.local_units(self.place.tensor)


def empty_parameter(weight: Weight, place: Placement) -> nn.Parameter:
    """An unfilled parameter for this rank's part of `weight`; the declaration travels along as `.declared`."""
    dtype = torch.float32 if weight.float32 and place.dtype.itemsize < 4 else place.dtype
    parameter = nn.Parameter(torch.empty(weight.local_shape(place.tensor), dtype=dtype, device=place.device))
    parameter.declared = weight  # type: ignore[attr-defined]
    return parameter
