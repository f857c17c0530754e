"""Mamba-2: a selective state space with one decay per head (Dao and Gu, 2024), with every option of Falcon-H1."""

# S sequence, B batch, D hidden, H heads, P head dim, G groups, N state size, K convolution taps

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one, configured
from eyas.core.mup import MupLaw
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers import ssd_mamba_ssm
from eyas.layers.conv import causal_conv, conv_step, histories, latest
from eyas.layers.gated_norm import gated_group_norm
from eyas.layers.initial import check_time_steps, inverse_softplus_of_log_uniform, log_uniform, ones, uniform, zeros
from eyas.layers.linear import linear
from eyas.layers.mamba2_by_heads import mix_by_heads
from eyas.layers.ssd import Kernel, ssd, ssd_step
from eyas.layers.ssd_chunked import best_chunk
from eyas.layers.ssd_summary import ssd_summary

State = tuple[dict[str, Tensor], Tensor]
UNLIMITED = (0.0, math.inf)


@register("mamba2", symbol="M")
class Mamba2(Mixer):
    """Mamba-2: selective state space, causal convolution in front, gate and optional grouped norm behind."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of Mamba-2."""

        role = "ssm"
        carries_documents = True
        carries_context = True
        exchanges_heads = True

        num_heads: int
        """Heads, a multiple of num_groups; split over the tensor-parallel ranks."""
        head_dim: int
        state_size: int
        """State channels per head channel (d_state)."""
        num_groups: int = 1
        """Groups of heads that share B and C; held by several ranks where there are fewer groups than ranks."""
        conv_kernel: int = 4
        conv_bias: bool = True
        gated_norm: bool = True
        """RMSNorm per group behind the scan; without it the gate alone."""
        norm_before_gate: bool = False
        norm_epsilon: float = 1e-5
        projection_bias: bool = False
        output_bias: bool = False
        time_step_limit: tuple[float, float] = UNLIMITED
        """Bounds of dt after the softplus."""
        time_step_min: float = 1e-3
        """Initial values of dt are log-uniform between time_step_min and time_step_max, at least time_step_floor."""
        time_step_max: float = 0.1
        time_step_floor: float = 1e-4
        kernel: Kernel = "auto"
        chunk_size: int | None = None
        """Tokens per chunk of the scan; null lets the kernel choose. The result does not depend on it."""
        input_multiplier: float | None = None
        """Scales the input of the projections; null means 1, or what the model's muP law gives."""
        multipliers: tuple[float, float, float, float, float] | None = None
        """Scales the projections z, x, B, C, dt."""
        output_multiplier: float | None = None

        def __post_init__(self) -> None:
            at_least_one(self, "num_heads", "head_dim", "state_size", "num_groups", "conv_kernel", "chunk_size")
            if self.num_heads % self.num_groups:
                raise ConfigError(
                    f"num_groups={self.num_groups} must divide num_heads={self.num_heads}; "
                    "heads share B and C in equal groups"
                )
            check_time_steps(self.time_step_min, self.time_step_max, self.time_step_floor)
            low, high = self.time_step_limit
            if not 0 <= low < high:
                raise ConfigError(
                    f"time_step_limit={[low, high]} must be a lower bound of at least 0 and a higher one; "
                    "leave it out for no bounds"
                )

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_heads": max(1, 2 * hidden_size // 64), "head_dim": 64, "state_size": 128}

        @property
        def inner_size(self) -> int:
            """Channels of the state space (d_ssm): heads times head dim."""
            return self.num_heads * self.head_dim

        @property
        def conv_channels(self) -> int:
            """Channels that pass through the convolution: x, B and C."""
            return self.inner_size + 2 * self.num_groups * self.state_size

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            heads = Axis("num_heads", self.num_heads)
            groups = Axis("num_groups", self.num_groups, shared=True)
            widths = {"z": (heads, self.head_dim), "x": (heads, self.head_dim)}
            widths |= {"B": (groups, self.state_size), "C": (groups, self.state_size), "dt": (heads, 1)}
            tap = uniform(1 / math.sqrt(self.conv_kernel))
            time_step = inverse_softplus_of_log_uniform(self.time_step_min, self.time_step_max, self.time_step_floor)

            declared = {name: column(*split, hidden_size) for name, split in widths.items()}
            for name in "xBC":
                declared[f"conv_{name}"] = column(*widths[name], self.conv_kernel, init=tap)
                if self.conv_bias:
                    declared[f"conv_{name}_bias"] = column(*widths[name], init=tap, decay=False)
            if self.projection_bias:
                for name, split in widths.items():
                    declared[f"{name}_proj_bias"] = column(*split, init=zeros, decay=False)
            declared["A_log"] = column(heads, 1, init=log_uniform(1, 16), float32=True, decay=False)
            declared["D"] = column(heads, 1, init=ones, float32=True, decay=False)
            declared["dt_bias"] = column(heads, 1, init=time_step, float32=True, decay=False)
            if self.gated_norm:
                declared["norm"] = column(heads, self.head_dim, init=ones, decay=False)
            declared["out"] = row(hidden_size, heads, self.head_dim)
            if self.output_bias:
                declared["output_bias"] = replicated(hidden_size, init=zeros, decay=False, partial_gradient=False)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            inner = self.inner_size if convention == "exact" else 2 * hidden_size
            projections = 2.0 * hidden_size * (2 * inner + 2 * self.num_groups * self.state_size + self.num_heads)
            return projections + 7.0 * inner * self.state_size + 2.0 * inner * hidden_size

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """With the chunked scan. Per token: the convolution's input, the scan's operands and result, what the gate,
            the norm and the projection behind them read. Per sequence: the convolution's history, the scan's states.
            Once: A and its exponential, zeros for a convolution without bias."""
            wide = max(element, 4)
            inner, heads = self.inner_size / at.tensor, self.num_heads / at.tensor
            groups = max(1.0, self.num_groups / at.tensor)
            channels = inner + 2 * groups * self.state_size
            time_steps = 2 if self.time_step_limit == UNLIMITED else 3
            per_token = 2 * channels * element + time_steps * heads * wide + inner * wide
            per_token += 3 * inner * element + groups * wide if self.gated_norm else 4 * inner * element
            chunks = math.ceil(sequence_length / (self.chunk_size or best_chunk(self.state_size)))
            history = (self.conv_kernel - 1) * channels * element
            states = chunks * inner * self.state_size * wide
            once = 2 * heads * wide + (0 if self.conv_bias else channels * element)
            return microbatch * (sequence_length * per_token + history + states) + once

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            """The convolution's history, and the scan's state in at least float32."""
            history = (self.conv_kernel - 1) * self.conv_channels
            return history * element + self.inner_size * self.state_size * max(element, 4)

        def check_device(self, cuda: bool) -> None:
            if self.kernel == "mamba_ssm":
                ssd_mamba_ssm.check(cuda)

        def with_law(self, law: MupLaw, hidden_size: int) -> Self:
            return replace(
                self,
                input_multiplier=configured(self.input_multiplier, law.ssm_input(hidden_size)),
                multipliers=self.multipliers or law.ssm_blocks(self.state_size),
                output_multiplier=configured(self.output_multiplier, law.ssm_output(self.inner_size)),
            )

    config: Mamba2.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        z, inputs, dt = self.project(x_SBD)
        if context.pieces is not None and context.pieces.by_heads:
            return self.output(mix_by_heads(self, inputs, dt, context.pieces), z, context)
        return self.mix(z, inputs, dt, {}, None, context)[0]

    def mix(
        self,
        z: Tensor,
        inputs: dict[str, Tensor],
        dt: Tensor,
        history: dict[str, Tensor],
        carried_BHPN: Tensor | None,
        context: MixerContext,
    ) -> tuple[Tensor, Tensor]:
        """Convolution, scan and output of projected tokens, behind `history` and the state `carried` by the scan where
        there are any; pieces of sequences have these from the pieces before. Returns (S, B, D), a partial sum, and the
        state behind the last token."""
        documents, pieces = context.documents_SB, context.pieces
        history = history | histories(inputs, self.conv_x, pieces)
        x, B, C = (
            causal_conv(inputs[name], *self.taps(name), history_KBC=history.get(name), documents_SB=documents)
            for name in "xBC"
        )
        x_SBHP, dt_SBH, A_H = self.split(x, self.config.head_dim), self.time_step(dt), self.decay()
        B_SBGN, C_SBGN = (self.split(t, self.config.state_size) for t in (B, C))
        if pieces is not None:
            carried_BHPN = pieces.carried(*ssd_summary(x_SBHP, dt_SBH, A_H, B_SBGN, documents))
        y_SBHP, last_BHPN = ssd(
            x_SBHP,
            dt_SBH,
            A_H,
            B_SBGN,
            C_SBGN,
            self.D,
            initial_state_BHPN=carried_BHPN,
            documents_SB=documents,
            kernel=self.config.kernel,
            chunk_size=self.config.chunk_size,
        )
        return self.output(y_SBHP, z, context), last_BHPN

    def project(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """z, what the convolutions read (x, B and C by name), and dt of this rank's heads and groups, with their
        multipliers."""
        c = self.config
        scales = zip(("z", "x", "B", "C", "dt"), c.multipliers or (None,) * 5, strict=True)
        found = {
            name: linear(
                x,
                getattr(self, name),
                getattr(self, f"{name}_proj_bias", None),
                scale_in=c.input_multiplier,
                scale_out=scale,
            )
            for name, scale in scales
        }
        return found.pop("z"), {name: found[name] for name in "xBC"}, found["dt"]

    def taps(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weight (C, K) and bias (C,) of the convolution over x, B or C."""
        return getattr(self, f"conv_{name}"), getattr(self, f"conv_{name}_bias", None)

    def time_step(self, dt: Tensor) -> Tensor:
        """Positive step sizes, in at least float32."""
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        low, high = self.config.time_step_limit
        return dt if (low, high) == UNLIMITED else dt.clamp(low, high)

    def decay(self) -> Tensor:
        """A, one negative number per head."""
        return -torch.exp(self.A_log)

    def output(self, y: Tensor, z: Tensor, context: MixerContext) -> Tensor:
        """Gate, norm and projection of the scan's output y (S, B, H, P). Returns (S, B, D), a partial sum."""
        c = self.config
        if c.gated_norm:
            groups = self.local("B")
            y = gated_group_norm(
                y,
                self.split(z, c.head_dim),
                self.norm,
                groups=groups,
                group_width=c.inner_size // c.num_groups,
                epsilon=c.norm_epsilon,
                before_gate=c.norm_before_gate,
                total=lambda partial: context.sum_over_copies(partial, self.declared["B"]),
            )
        else:
            y = y.flatten(-2) * F.silu(z)
        return linear(y, self.out, scale_out=c.output_multiplier)

    def bias_after_sum(self) -> Tensor | None:
        bias = super().bias_after_sum()
        return None if bias is None else bias * configured(self.config.output_multiplier, 1.0)

    def split(self, value: Tensor, width: int) -> Tensor:
        """(..., heads * width) to (..., heads, width)."""
        return value.unflatten(-1, (-1, width))

    def initial_state(self, batch: int) -> State:
        """The last K-1 inputs of each convolution, (K-1, B, C), and the scan's state (B, H, P, N)."""
        c = self.config
        history = {n: self.x.new_zeros(c.conv_kernel - 1, batch, getattr(self, n).shape[0]) for n in "xBC"}
        return history, self.A_log.new_zeros(batch, self.local("x"), c.head_dim, c.state_size)

    def step(self, x_BD: Tensor, state: State, context: MixerContext) -> tuple[Tensor, State]:
        c = self.config
        history, carried = dict(state[0]), state[1]
        z, inputs, dt = self.project(x_BD)
        for name in "xBC":
            inputs[name], history[name] = conv_step(inputs[name], history[name], *self.taps(name))
        x, B, C = inputs.values()
        y_BHP, carried = ssd_step(
            self.split(x, c.head_dim),
            self.time_step(dt),
            self.decay(),
            self.split(B, c.state_size),
            self.split(C, c.state_size),
            self.D,
            carried,
        )
        return self.output(y_BHP[None], z[None], context)[0], (history, carried)

    def prefill(self, x_SBD: Tensor, state: State, context: MixerContext) -> tuple[Tensor, State]:
        history, carried = state
        z, inputs, dt = self.project(x_SBD)
        y_SBD, carried = self.mix(z, inputs, dt, history, carried, context)
        return y_SBD, ({name: latest(history[name], inputs[name]) for name in "xBC"}, carried)
