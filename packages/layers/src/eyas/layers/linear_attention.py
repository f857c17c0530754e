"""Linear attention with a fixed decay per head: lightning (Qin et al., 2024) or retention (Sun et al., 2023)."""

# S sequence, B batch, D hidden, H heads, P head dim

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, row
from eyas.layers.gated_norm import gated_group_norm
from eyas.layers.initial import ones
from eyas.layers.linear import linear
from eyas.layers.ssd import ssd, ssd_step
from eyas.layers.ssd_chunked import best_chunk
from eyas.layers.ssd_summary import ssd_summary


@register("linear_attention")
class LinearAttention(Mixer):
    """Linear attention with a fixed decay per head, a norm and an output gate, as MiniMax-01 has it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of linear attention."""

        role = "ssm"
        carries_documents = True
        carries_context = True
        exchanges_heads = True

        num_heads: int
        """Heads; split over the tensor-parallel ranks."""
        head_dim: int
        """Channels per head."""
        decay: Literal["lightning", "retention"] = "lightning"
        """What a token keeps of the state in head h = 1 .. num_heads: exp(-2^(-8 h / num_heads)), or 1 - 2^(-4 - h)."""
        decay_scale: float = 1.0
        """Multiplies the logarithm of the decays; MiniMax-01's layer l of L has 1 - l / (L - 1) + 1e-5."""
        activation: Literal["silu", "none"] = "silu"
        """Of queries, keys and values."""
        gate: Literal["sigmoid", "silu"] = "sigmoid"
        """Activation of the output gate, which stands behind the norm."""
        norm_per_head: bool = False
        """RMSNorm of each head by itself; otherwise of all heads together."""
        norm_epsilon: float = 1e-6
        chunk_size: int | None = None
        """Tokens per chunk of the scan; null lets the kernel choose. The result does not depend on it."""

        def __post_init__(self) -> None:
            at_least_one(self, "num_heads", "head_dim", "chunk_size")
            if self.decay_scale <= 0:
                raise ConfigError(
                    f"decay_scale={self.decay_scale} must be above 0; a small one makes heads forget slowly"
                )

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_heads": max(1, hidden_size // 64), "head_dim": 64}

        @property
        def inner_size(self) -> int:
            """Channels of all heads."""
            return self.num_heads * self.head_dim

        @property
        def log_decays(self) -> list[float]:
            """Logarithm of what a token keeps of the state, for each head."""
            heads = range(1, self.num_heads + 1)
            if self.decay == "retention":
                return [self.decay_scale * math.log1p(-(2.0 ** (-4 - head))) for head in heads]
            return [-self.decay_scale * 2.0 ** (-8 * head / self.num_heads) for head in heads]

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            heads = Axis("num_heads", self.num_heads)
            declared = {name: column(heads, self.head_dim, hidden_size) for name in ("q", "k", "v", "z")}
            declared["norm"] = column(heads, self.head_dim, init=ones, decay=False)
            declared["out"] = row(hidden_size, heads, self.head_dim)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            """Per entry of the state: its decay, what is added, what the query reads."""
            return super().flops(hidden_size, sequence_length, convention) + 5.0 * self.inner_size * self.head_dim

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Per token: queries, keys and values, also before an activation, the scan's result, what the gated norm
            and the projection behind it read. Per sequence: the scan's states. Once: decays, zeros for a skip."""
            wide, heads = max(element, 4), self.num_heads / at.tensor
            inner, norms = heads * self.head_dim, heads if self.norm_per_head else 1
            operands = 6 if self.activation == "silu" else 3
            per_token = (operands + 3) * inner * element + (inner + norms) * wide
            chunks = math.ceil(sequence_length / (self.chunk_size or best_chunk(self.head_dim)))
            states = chunks * inner * self.head_dim * wide
            return microbatch * (sequence_length * per_token + states) + (2 * heads + 1) * wide

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            """The state, in at least float32."""
            return self.inner_size * self.head_dim * max(element, 4)

    config: LinearAttention.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        (q, k, v), documents, pieces = self.project(x_SBD), context.documents_SB, context.pieces
        log_decay_H, one = self.rates(v)
        if pieces is not None and pieces.by_heads:
            q, k, v = pieces.heads(torch.cat([q, k, v], dim=-1)).chunk(3, dim=-1)
            y_SBHP = self.scan(q, k, v, pieces.own_heads(log_decay_H), one, pieces.whole_documents_SB)
            return self.output(pieces.tokens(y_SBHP), x_SBD, context)
        carried = None
        if pieces is not None:
            carried = pieces.carried(*ssd_summary(v, one.expand(v.shape[:3]), log_decay_H, k, documents))
        return self.output(self.scan(q, k, v, log_decay_H, one, documents, carried), x_SBD, context)

    def scan(
        self,
        q_SBHP: Tensor,
        k_SBHP: Tensor,
        v_SBHP: Tensor,
        log_decay_H: Tensor,
        one: Tensor,
        documents_SB: Tensor | None,
        carried_BHPN: Tensor | None = None,
    ) -> Tensor:
        """The recurrence of the heads given, from the state `carried`. Returns (S, B, H, P)."""
        return ssd(
            v_SBHP,
            one.expand(v_SBHP.shape[:3]),
            log_decay_H,
            k_SBHP,
            q_SBHP,
            initial_state_BHPN=carried_BHPN,
            documents_SB=documents_SB,
            chunk_size=self.config.chunk_size,
        )[0]

    def project(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values (S, B, H, P) of this rank's heads."""
        projected = [linear(x, weight).unflatten(-1, (-1, self.config.head_dim)) for weight in (self.q, self.k, self.v)]
        return [F.silu(t) for t in projected] if self.config.activation == "silu" else projected

    def rates(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The scan's A, which is the logarithm of the decays, and its step size of one."""
        first = self.place.tensor_rank * self.local("q")
        own = self.config.log_decays[first : first + self.local("q")]
        wide = torch.promote_types(v.dtype, torch.float32)
        return torch.tensor(own, dtype=wide, device=v.device), torch.ones((), dtype=wide, device=v.device)

    def output(self, y_SBHP: Tensor, x_SBD: Tensor, context: MixerContext) -> Tensor:
        """Norm, gate and projection. Returns (S, B, D), a partial sum."""
        c = self.config
        y = gated_group_norm(
            y_SBHP,
            linear(x_SBD, self.z).view_as(y_SBHP),
            self.norm,
            groups=self.local("q") if c.norm_per_head else 1,
            group_width=c.head_dim if c.norm_per_head else c.inner_size,
            epsilon=c.norm_epsilon,
            before_gate=True,
            total=(lambda own: own) if c.norm_per_head else context.sum_over_ranks,
            activation=c.gate,
        )
        return linear(y, self.out)

    def initial_state(self, batch: int) -> Tensor:
        """The state (B, H, P, P): values by keys."""
        P, wide = self.config.head_dim, torch.promote_types(self.q.dtype, torch.float32)
        return self.q.new_zeros(batch, self.local("q"), P, P, dtype=wide)

    def step(self, x_BD: Tensor, state: Tensor, context: MixerContext) -> tuple[Tensor, Tensor]:
        q, k, v = self.project(x_BD)
        log_decay_H, one = self.rates(v)
        y_BHP, state = ssd_step(v, one.expand(v.shape[:2]), log_decay_H, k, q, None, state)
        return self.output(y_BHP[None], x_BD[None], context)[0], state
