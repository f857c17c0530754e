"""Gated causal convolution: y = out(silu(gate x) * conv(value x)), a few taps per channel (after Poli et al., 2023)."""

# S sequence, B batch, D hidden, C channels, K taps

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import MixerConfig, at_least_one
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, row
from eyas.layers.initial import uniform


@register("gated_conv")
class GatedConv(Mixer):
    """Gated causal convolution: a short filter for each channel, under a gate."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of the gated convolution."""

        carries_context = True

        channels: int
        """Channels of the convolution, by default hidden_size; split over the tensor-parallel ranks."""
        kernel_size: int = 4
        """Tokens that a token sees, itself included."""

        def __post_init__(self) -> None:
            at_least_one(self, "channels", "kernel_size")

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"channels": hidden_size}

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            channels = Axis("channels", self.channels)
            return {
                "gate": column(channels, 1, hidden_size),
                "value": column(channels, 1, hidden_size),
                "taps": column(channels, 1, self.kernel_size, init=uniform(1 / math.sqrt(self.kernel_size))),
                "out": row(hidden_size, channels, 1),
            }

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """The gate before and after SiLU, the convolution's input and result, the input of the last projection."""
            history = self.kernel_size - 1
            return microbatch * (5 * sequence_length + history) * self.channels / at.tensor * element

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            return (self.kernel_size - 1) * self.channels * element

    config: GatedConv.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        value_SBC = F.linear(x_SBD, self.value)
        if context.pieces is None:
            history_KBC = self.initial_state(x_SBD.shape[1])
        else:  # the sequence goes on from another rank's piece of it
            history_KBC = context.pieces.before(value_SBC, self.config.kernel_size - 1)
        return self.output(x_SBD, convolve(torch.cat([history_KBC, value_SBC]), self.taps))

    def output(self, x_SBD: Tensor, convolved_SBC: Tensor) -> Tensor:
        """Gate and projection. Returns (S, B, D), a partial sum."""
        return F.linear(F.silu(F.linear(x_SBD, self.gate)) * convolved_SBC, self.out)

    def initial_state(self, batch: int) -> Tensor:
        """The last K - 1 inputs of the convolution, (K - 1, B, C)."""
        return self.value.new_zeros(self.config.kernel_size - 1, batch, self.local("value"))

    def step(self, x_BD: Tensor, state: Tensor, context: MixerContext) -> tuple[Tensor, Tensor]:
        window_KBC = torch.cat([state, F.linear(x_BD, self.value)[None]])
        return self.output(x_BD[None], convolve(window_KBC, self.taps))[0], window_KBC[1:]


def convolve(value_SBC: Tensor, taps_CK: Tensor) -> Tensor:
    """Each channel filtered by its taps, the last of which meets the newest token. value: (K - 1 + S, B, C), history
    first. Returns (S, B, C)."""
    return torch.einsum("sbck,ck->sbc", value_SBC.unfold(0, taps_CK.shape[1], 1), taps_CK)
