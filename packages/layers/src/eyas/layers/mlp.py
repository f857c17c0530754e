"""Feed-forward layer, gated or not: SwiGLU (Shazeer, 2020), GELU, squared ReLU (So et al., 2021)."""

# S sequence, B batch, D hidden, F neurons

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor

from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one, configured
from eyas.core.mup import MupLaw
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers.initial import zeros
from eyas.layers.linear import linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "squared_relu": lambda x: F.relu(x).square(),
}


@register("mlp", symbol="-")
class MLP(Mixer):
    """Feed-forward layer: down(act(gate x) * up x), or down(act(up x)) without the gate."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of the feed-forward layer."""

        carries_documents = True
        carries_context = True

        intermediate_size: int
        """Neurons; split over the tensor-parallel ranks."""
        gated: bool = True
        activation: Literal["silu", "gelu", "squared_relu"] = "silu"
        bias: bool = False
        gate_multiplier: float | None = None
        """Scales what enters the activation; null means 1, or what the model's muP law gives."""
        down_multiplier: float | None = None
        """Scales the output, its bias included."""

        def __post_init__(self) -> None:
            at_least_one(self, "intermediate_size")

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"intermediate_size": 64 * math.ceil(8 * hidden_size / 3 / 64)}

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            neurons = Axis("intermediate_size", self.intermediate_size)
            names = ("gate", "up") if self.gated else ("up",)
            declared = {name: column(neurons, 1, hidden_size) for name in names}
            declared["down"] = row(hidden_size, neurons, 1)
            if self.bias:
                for name in names:
                    declared[f"{name}_bias"] = column(neurons, 1, init=zeros, decay=False)
                declared["output_bias"] = replicated(hidden_size, init=zeros, decay=False, partial_gradient=False)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            return (6.0 if self.gated else 4.0) * hidden_size * self.intermediate_size

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """What enters the activation (for squared ReLU the ReLU's result) and the input of the last projection;
            with a gate also both factors."""
            kept = 4 if self.gated else 2
            return sequence_length * microbatch * kept * self.intermediate_size / at.tensor * element

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            return 0

        def with_law(self, law: MupLaw, hidden_size: int) -> Self:
            return replace(
                self,
                gate_multiplier=configured(self.gate_multiplier, law.mlp_gate(hidden_size)),
                down_multiplier=configured(self.down_multiplier, law.mlp_down(hidden_size, self.intermediate_size)),
            )

    config: MLP.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        c = self.config
        activate = ACTIVATIONS[c.activation]
        up_bias = getattr(self, "up_bias", None)
        if c.gated:
            gate = linear(x_SBD, self.gate, getattr(self, "gate_bias", None), scale_out=c.gate_multiplier)
            hidden = activate(gate) * linear(x_SBD, self.up, up_bias)
        else:
            hidden = activate(linear(x_SBD, self.up, up_bias, scale_out=c.gate_multiplier))
        return linear(hidden, self.down, scale_out=c.down_multiplier)

    def bias_after_sum(self) -> Tensor | None:
        bias = super().bias_after_sum()
        return None if bias is None else bias * configured(self.config.down_multiplier, 1.0)

    def initial_state(self, batch: int) -> None:
        return None

    def step(self, x_BD: Tensor, state: None, context: MixerContext) -> tuple[Tensor, None]:
        return self(x_BD[None], context)[0], state

    def prefill(self, x_SBD: Tensor, state: None, context: MixerContext) -> tuple[Tensor, None]:
        return self(x_SBD, context), state
