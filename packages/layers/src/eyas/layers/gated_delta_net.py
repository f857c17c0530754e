"""Gated DeltaNet: a linear attention that overwrites what a key held (Yang, Kautz and Hatamizadeh, 2024)."""

# S sequence, B batch, D hidden, G key heads, H heads, N key channels, P value channels, K convolution taps

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers.conv import causal_conv, causal_conv_by_heads, conv_step, histories
from eyas.layers.delta_rule import CHUNK, delta_rule_summary, gated_delta_rule
from eyas.layers.delta_rule_sequential import delta_rule_step
from eyas.layers.gated_norm import gated_group_norm
from eyas.layers.initial import inverse_softplus_of_log_uniform, log_uniform, ones, uniform
from eyas.layers.linear import linear

State = tuple[dict[str, Tensor], Tensor]


@register("gated_delta_net")
class GatedDeltaNet(Mixer):
    """Gated DeltaNet: short convolutions, the gated delta rule, a gated norm per head; as Qwen3-Next has it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of Gated DeltaNet."""

        role = "ssm"
        carries_documents = True
        carries_context = True
        exchanges_heads = True

        num_heads: int
        """Heads of values; split over the tensor-parallel ranks."""
        num_key_heads: int | None = None
        """Heads of queries and keys, a divisor of num_heads: null for as many. Held by several ranks where there are
        fewer than ranks."""
        key_head_dim: int
        value_head_dim: int
        conv_kernel: int = 4
        norm_epsilon: float = 1e-6
        chunk_size: int | None = None
        """Tokens per chunk of the scan; null lets the kernel choose. The result does not depend on it."""

        def __post_init__(self) -> None:
            at_least_one(self, "num_heads", "key_head_dim", "value_head_dim", "conv_kernel", "chunk_size")
            if self.key_heads < 1 or self.num_heads % self.key_heads:
                raise ConfigError(
                    f"num_key_heads={self.num_key_heads} must divide num_heads={self.num_heads}; "
                    "heads share queries and keys in equal groups"
                )

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_heads": max(1, 2 * hidden_size // 128), "key_head_dim": 128, "value_head_dim": 128}

        @property
        def key_heads(self) -> int:
            return self.num_heads if self.num_key_heads is None else self.num_key_heads

        @property
        def inner_size(self) -> int:
            """Channels of the values: heads times their width."""
            return self.num_heads * self.value_head_dim

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            heads = Axis("num_heads", self.num_heads)
            key_heads = Axis("num_key_heads", self.key_heads, shared=True)
            keys, values = (key_heads, self.key_head_dim), (heads, self.value_head_dim)
            widths = {"q": keys, "k": keys, "v": values, "z": values, "beta": (heads, 1), "dt": (heads, 1)}
            tap = uniform(1 / math.sqrt(self.conv_kernel))
            time_step = inverse_softplus_of_log_uniform(1e-3, 0.1, 1e-4)

            declared = {name: column(*split, hidden_size) for name, split in widths.items()}
            declared |= {f"conv_{name}": column(*widths[name], self.conv_kernel, init=tap) for name in "qkv"}
            declared["A_log"] = column(heads, 1, init=log_uniform(0.01, 16), float32=True, decay=False)
            declared["dt_bias"] = column(heads, 1, init=time_step, float32=True, decay=False)
            declared["norm"] = replicated(self.value_head_dim, init=ones, decay=False)
            declared["out"] = row(hidden_size, heads, self.value_head_dim)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            """Per entry of the state: its decay, what the key finds there, what is written, what the query reads; the
            short convolutions are not counted."""
            widths = 2 * self.key_heads * self.key_head_dim + 3 * self.inner_size + 2 * self.num_heads
            return 2.0 * hidden_size * widths + 7.0 * self.inner_size * self.key_head_dim

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Per token: what enters and leaves the convolutions, the decay with its two factors, beta, what the gated
            norm and the projection behind it read. Per sequence: the convolutions' history, a state for each chunk.
            Once: A and its exponential, zeros for the convolutions' biases."""
            wide = max(element, 4)
            heads, key_heads = self.num_heads / at.tensor, max(1.0, self.key_heads / at.tensor)
            inner = heads * self.value_head_dim
            channels = 2 * key_heads * self.key_head_dim + inner
            per_token = (2 * channels + heads + 3 * inner) * element + 4 * heads * wide
            history = (self.conv_kernel - 1) * channels * element
            states = math.ceil(sequence_length / (self.chunk_size or CHUNK)) * inner * self.key_head_dim * wide
            return microbatch * (sequence_length * per_token + history + states) + 2 * heads * wide + channels * element

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            """The convolutions' history, and the state in at least float32."""
            channels = 2 * self.key_heads * self.key_head_dim + self.inner_size
            history = (self.conv_kernel - 1) * channels * element
            return history + self.inner_size * self.key_head_dim * max(element, 4)

    config: GatedDeltaNet.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        inputs, rates = {n: linear(x_SBD, getattr(self, n)) for n in "qkv"}, self.rates(x_SBD)
        by_heads = context.pieces is not None and context.pieces.by_heads
        return self.output((self.by_heads if by_heads else self.by_pieces)(inputs, *rates, context), x_SBD)

    def by_pieces(
        self, inputs: dict[str, Tensor], log_decay_SBH: Tensor, beta_SBH: Tensor, context: MixerContext
    ) -> Tensor:
        """Convolutions and rule, (S, B, H, P), of whole sequences or of pieces, which have what goes on in them from
        the pieces before."""
        documents, pieces = context.documents_SB, context.pieces
        history = histories(inputs, self.conv_q, pieces)
        q, k, v = (
            self.split(
                causal_conv(x, getattr(self, f"conv_{n}"), history_KBC=history.get(n), documents_SB=documents), n
            )
            for n, x in inputs.items()
        )
        how: dict[str, Any] = {"documents_SB": documents, "chunk_size": self.config.chunk_size}
        carried = None
        if pieces is not None:
            summary = delta_rule_summary(k, v, log_decay_SBH, beta_SBH, **how)
            carried = pieces.carried(*summary, lambda matrix, state: state @ matrix)
        return gated_delta_rule(q, k, v, log_decay_SBH, beta_SBH, initial_state_BHPN=carried, **how)[0]

    def by_heads(
        self, inputs: dict[str, Tensor], log_decay_SBH: Tensor, beta_SBH: Tensor, context: MixerContext
    ) -> Tensor:
        """Convolutions and rule of whole sequences of this rank's share of the heads, for its pieces of all heads, and
        back to these: (S, B, H, P)."""
        pieces = context.pieces
        assert pieces is not None
        q, k, v = (
            causal_conv_by_heads(self.split(x, n), getattr(self, f"conv_{n}"), None, pieces) for n, x in inputs.items()
        )
        log_decay, beta = (pieces.heads(t_SBH[..., None])[..., 0] for t_SBH in (log_decay_SBH, beta_SBH))
        how: dict[str, Any] = {"documents_SB": pieces.whole_documents_SB, "chunk_size": self.config.chunk_size}
        return pieces.tokens(gated_delta_rule(q, k, v, log_decay, beta, **how)[0])

    def split(self, value: Tensor, name: str) -> Tensor:
        """(..., heads * width) to (..., heads, width) for q, k or v."""
        return value.unflatten(-1, (self.local(name), -1))

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the decay, in at least float32, and beta, the share of the old value that is overwritten; (..., H)."""
        dt = F.softplus(linear(x, self.dt).to(self.dt_bias.dtype) + self.dt_bias)
        return -torch.exp(self.A_log) * dt, torch.sigmoid(linear(x, self.beta))

    def output(self, y_SBHP: Tensor, x_SBD: Tensor) -> Tensor:
        """Norm per head, gate and projection. Returns (S, B, D), a partial sum."""
        y = gated_group_norm(
            y_SBHP,
            self.split(linear(x_SBD, self.z), "v"),
            self.norm.expand(self.local("v"), -1),
            groups=self.local("v"),
            group_width=self.config.value_head_dim,
            epsilon=self.config.norm_epsilon,
            before_gate=True,
            total=lambda own: own,
        )
        return linear(y, self.out)

    def initial_state(self, batch: int) -> State:
        """The last K-1 inputs of each convolution, (K-1, B, C), and the state (B, H, P, N)."""
        c = self.config
        history = {n: self.q.new_zeros(c.conv_kernel - 1, batch, getattr(self, n).shape[0]) for n in "qkv"}
        return history, self.A_log.new_zeros(batch, self.local("v"), c.value_head_dim, c.key_head_dim)

    def step(self, x_BD: Tensor, state: State, context: MixerContext) -> tuple[Tensor, State]:
        history, carried = dict(state[0]), state[1]
        convolved = {}
        for n in "qkv":
            value, history[n] = conv_step(linear(x_BD, getattr(self, n)), history[n], getattr(self, f"conv_{n}"))
            convolved[n] = self.split(value, n)
        log_decay_BH, beta_BH = self.rates(x_BD)
        y_BHP, carried = delta_rule_step(convolved["q"], convolved["k"], convolved["v"], log_decay_BH, beta_BH, carried)
        return self.output(y_BHP[None], x_BD[None])[0], (history, carried)
