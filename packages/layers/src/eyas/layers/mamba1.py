"""Mamba: a selective state space with decays for every channel and state (Gu and Dao, 2023), as Jamba has it too."""

# S sequence, B batch, D hidden, C channels, N state size, R rank of the time step, K convolution taps

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers.conv import causal_conv, conv_step, histories
from eyas.layers.initial import check_time_steps, inverse_softplus_of_log_uniform, log_of_counting, ones, uniform, zeros
from eyas.layers.linear import linear
from eyas.layers.norm import rms_norm
from eyas.layers.selective_scan import CHUNK, selective_scan
from eyas.layers.selective_scan_sequential import selective_step

State = tuple[Tensor, Tensor]


@register("mamba1")
class Mamba1(Mixer):
    """Mamba: selective state space with decays per channel and state, causal convolution in front, gate behind."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of Mamba."""

        role = "ssm"
        carries_documents = True
        carries_context = True

        inner_size: int
        """Channels, usually twice the hidden size; split over the tensor-parallel ranks."""
        dt_rank: int
        """Channels that the time steps are read from, usually a sixteenth of the hidden size."""
        state_size: int = 16
        conv_kernel: int = 4
        conv_bias: bool = True
        inner_norms: bool = False
        """RMSNorm on what the time step is read from, on B and on C, as in Jamba."""
        norm_epsilon: float = 1e-6
        projection_bias: bool = False
        output_bias: bool = False
        time_step_min: float = 1e-3
        """Initial values of dt are log-uniform between time_step_min and time_step_max, at least time_step_floor."""
        time_step_max: float = 0.1
        time_step_floor: float = 1e-4
        chunk_size: int | None = None
        """Tokens per chunk of the scan; null lets the kernel choose. The result does not depend on it."""

        def __post_init__(self) -> None:
            at_least_one(self, "inner_size", "dt_rank", "state_size", "conv_kernel", "chunk_size")
            check_time_steps(self.time_step_min, self.time_step_max, self.time_step_floor)

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"inner_size": 2 * hidden_size, "dt_rank": math.ceil(hidden_size / 16)}

        @property
        def read_widths(self) -> dict[str, int]:
            """Channels of what is read from all channels at once: the time step's, B and C."""
            return {"dt": self.dt_rank, "B": self.state_size, "C": self.state_size}

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            channels = Axis("inner_size", self.inner_size)
            tap = uniform(1 / math.sqrt(self.conv_kernel))
            time_step = inverse_softplus_of_log_uniform(self.time_step_min, self.time_step_max, self.time_step_floor)

            declared = {name: column(channels, 1, hidden_size) for name in "xz"}
            if self.projection_bias:
                declared |= {f"{name}_bias": column(channels, 1, init=zeros, decay=False) for name in "xz"}
            declared["conv"] = column(channels, 1, self.conv_kernel, init=tap)
            if self.conv_bias:
                declared["conv_bias"] = column(channels, 1, init=tap, decay=False)
            for name, width in self.read_widths.items():
                declared[name] = row(width, channels, 1)
                if self.inner_norms:
                    declared[f"{name}_norm"] = replicated(width, init=ones, decay=False)
            declared["dt_up"] = column(channels, 1, self.dt_rank, init=uniform(self.dt_rank**-0.5))
            declared["dt_bias"] = column(channels, 1, init=time_step, float32=True, decay=False)
            declared["A_log"] = column(channels, 1, self.state_size, init=log_of_counting, float32=True, decay=False)
            declared["D"] = column(channels, 1, init=ones, float32=True, decay=False)
            declared["out"] = row(hidden_size, channels, 1)
            if self.output_bias:
                declared["output_bias"] = replicated(hidden_size, init=zeros, decay=False, partial_gradient=False)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            """The projections, and seven per entry of the state, as for Mamba-2; the convolution is not counted."""
            per_channel = 3 * hidden_size + 2 * self.dt_rank + 2 * self.state_size
            return self.inner_size * (2.0 * per_channel + 7.0 * self.state_size)

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Per token: the convolution's input and result, the time step before and after its softplus, what is read
            from all channels (with its norms), the scan's result, the gate with its activation, their product. Per
            sequence: the convolution's history, a state for each chunk. Once: A and its exponential."""
            wide, inner = max(element, 4), self.inner_size / at.tensor
            read = sum(self.read_widths.values())
            per_token = 6 * inner * element + 2 * inner * wide
            per_token += read * (wide + 2 * element) + 3 * wide if self.inner_norms else read * element
            history = (self.conv_kernel - 1) * inner * element
            states = math.ceil(sequence_length / (self.chunk_size or CHUNK)) * inner * self.state_size * wide
            once = 2 * inner * self.state_size * wide + (0 if self.conv_bias else inner * element)
            return microbatch * (sequence_length * per_token + history + states) + once

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            """The convolution's history, and the scan's state in at least float32."""
            return self.inner_size * ((self.conv_kernel - 1) * element + self.state_size * max(element, 4))

    config: Mamba1.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        x_SBC, z_SBC = self.project(x_SBD)
        documents, pieces = context.documents_SB, context.pieces
        history = histories({"x": x_SBC}, self.conv, pieces).get("x")
        bias = getattr(self, "conv_bias", None)
        x_SBC = causal_conv(x_SBC, self.conv, bias, history_KBC=history, documents_SB=documents)
        dt_SBC, B_SBN, C_SBN = self.read(x_SBC, context)
        A_CN = -torch.exp(self.A_log)
        scan = partial(
            selective_scan,
            x_SBC,
            dt_SBC,
            A_CN,
            B_SBN,
            C_SBN,
            self.D,
            documents_SB=documents,
            chunk_size=self.config.chunk_size,
        )
        carried_BCN = None
        if pieces is not None:
            carried_BCN = pieces.carried(scan()[1], torch.exp(dt_SBC.sum(0)[..., None] * A_CN))
        return self.output(scan(initial_state_BCN=carried_BCN)[0], z_SBC)

    def project(self, x: Tensor) -> list[Tensor]:
        """x and z of this rank's channels."""
        return [linear(x, getattr(self, name), getattr(self, f"{name}_bias", None)) for name in "xz"]

    def read(self, x_SBC: Tensor, context: MixerContext) -> tuple[Tensor, Tensor, Tensor]:
        """Time steps of this rank's channels (S, B, C), in at least float32; B and C (S, B, N), which all channels of
        all ranks decide: one sum over the ranks serves the three."""
        c = self.config
        partial = torch.cat([linear(x_SBC, getattr(self, name)) for name in c.read_widths], dim=-1)
        low, B, C = context.sum_over_ranks(partial).split(list(c.read_widths.values()), dim=-1)
        if c.inner_norms:
            norms = (self.dt_norm, self.B_norm, self.C_norm)
            low, B, C = (rms_norm(t, weight, c.norm_epsilon) for t, weight in zip((low, B, C), norms, strict=True))
        dt = F.softplus(linear(low, self.dt_up).to(self.dt_bias.dtype) + self.dt_bias)
        return dt, B, C

    def output(self, y_SBC: Tensor, z_SBC: Tensor) -> Tensor:
        """Gate and projection. Returns (S, B, D), a partial sum."""
        return linear(y_SBC * F.silu(z_SBC), self.out)

    def initial_state(self, batch: int) -> State:
        """The last K-1 inputs of the convolution, (K-1, B, C), and the scan's state (B, C, N)."""
        c, channels = self.config, self.local("x")
        history = self.x.new_zeros(c.conv_kernel - 1, batch, channels)
        return history, self.A_log.new_zeros(batch, channels, c.state_size)

    def step(self, x_BD: Tensor, state: State, context: MixerContext) -> tuple[Tensor, State]:
        history, carried = state
        x_BC, z_BC = self.project(x_BD)
        x_BC, history = conv_step(x_BC, history, self.conv, getattr(self, "conv_bias", None))
        dt_BC, B_BN, C_BN = self.read(x_BC, context)
        y_BC, carried = selective_step(x_BC, dt_BC, -torch.exp(self.A_log), B_BN, C_BN, self.D, carried)
        return self.output(y_BC, z_BC), (history, carried)
