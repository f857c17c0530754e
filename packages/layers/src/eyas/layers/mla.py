"""Multi-head latent attention (DeepSeek-AI, 2024): keys and values of all heads come from one small latent a token."""

# S sequence, B batch, D hidden, H heads, C latent (kv_lora_rank), P query and key channels: N without positions, then R

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one, configured
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers.attend import attend, visible
from eyas.layers.attend_pieces import by_heads, by_pieces
from eyas.layers.initial import ones, zeros
from eyas.layers.linear import linear
from eyas.layers.norm import rms_norm
from eyas.layers.rope_scaling import RopeScaling
from eyas.layers.rotary import paired, rotate

State = tuple[Tensor, Tensor]


@register("mla")
class LatentAttention(Mixer):
    """Multi-head latent attention (DeepSeek-V2 and V3): decoding keeps one latent and one rotated key per token."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of multi-head latent attention."""

        role = "attention"
        carries_documents = True
        carries_context = True
        exchanges_heads = True

        num_heads: int
        """Heads; split over the tensor-parallel ranks."""
        kv_lora_rank: int
        """Channels of the latent that keys and values are read from."""
        q_lora_rank: int | None = None
        """Channels of the latent that queries are read from; null projects them straight from the input."""
        qk_nope_head_dim: int = 128
        """Channels of a head's query and key that carry no position."""
        qk_rope_head_dim: int = 64
        """Channels that are rotated; their key is one for all heads."""
        v_head_dim: int = 128
        rope_base: float = 10_000.0
        rope_scaling: RopeScaling | None = None
        """How the frequencies are stretched for longer texts; null for not."""
        rope_interleave: bool = True
        """Neighbouring channels are turned against each other; false turns halves, as `attention` does."""
        softmax_scale: float | None = None
        """Scales the products of queries and keys; null means 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim),
        and what rope_scaling adds."""
        norm_epsilon: float = 1e-6
        """Of the RMSNorm on each latent."""
        down_bias: bool = False
        """Biases of the projections down to the latents and to the rotated key."""
        output_bias: bool = False

        def __post_init__(self) -> None:
            at_least_one(self, "num_heads", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim")
            if self.qk_rope_head_dim < 2 or self.qk_rope_head_dim % 2:
                raise ConfigError(f"qk_rope_head_dim={self.qk_rope_head_dim} must be even and at least 2")

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_heads": max(1, hidden_size // 128), "kv_lora_rank": min(512, max(1, hidden_size // 4))}

        @property
        def qk_head_dim(self) -> int:
            """Channels of a head's query and key."""
            return self.qk_nope_head_dim + self.qk_rope_head_dim

        @property
        def scale(self) -> float:
            """What scales the products of queries and keys."""
            longer = 1.0 if self.rope_scaling is None else self.rope_scaling.softmax_factor
            return configured(self.softmax_scale, self.qk_head_dim**-0.5 * longer)

        @property
        def rotated(self) -> int:
            """Channels of a head that are rotated."""
            return self.qk_rope_head_dim

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            heads = Axis("num_heads", self.num_heads)
            down = {"kv_down": self.kv_lora_rank, "k_rope": self.qk_rope_head_dim}
            norms = {"kv_norm": self.kv_lora_rank}
            if self.q_lora_rank is None:
                declared = {"q": column(heads, self.qk_head_dim, hidden_size)}
            else:
                down["q_down"] = norms["q_norm"] = self.q_lora_rank
                declared = {"q": column(heads, self.qk_head_dim, self.q_lora_rank)}
            declared["k_up"] = column(heads, self.qk_nope_head_dim, self.kv_lora_rank)
            declared["v_up"] = column(heads, self.v_head_dim, self.kv_lora_rank)
            declared["o"] = row(hidden_size, heads, self.v_head_dim)
            declared |= {name: replicated(width, hidden_size) for name, width in down.items()}
            declared |= {name: replicated(width, init=ones, decay=False) for name, width in norms.items()}
            if self.down_bias:
                biases = {f"{name}_bias": replicated(width, init=zeros, decay=False) for name, width in down.items()}
                declared |= biases
            if self.output_bias:
                declared["output_bias"] = replicated(hidden_size, init=zeros, decay=False, partial_gradient=False)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            products = self.num_heads * (self.qk_head_dim + self.v_head_dim)
            return super().flops(hidden_size, sequence_length, convention) + sequence_length * products

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            """The latent and the rotated key of each token, whatever the number of heads."""
            return sequence_length * (self.kv_lora_rank + self.qk_rope_head_dim) * element

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Queries, keys, values and output, all as wide as the widest, and the softmax's normaliser; the output
            without its padding; each latent's norm. The rotary table is not counted: all layers share one."""
            wide, heads = max(element, 4), self.num_heads / at.tensor
            width = max(self.qk_head_dim, self.v_head_dim)
            per_token = 4 * heads * width * element + heads * wide
            if self.v_head_dim < width:
                per_token += heads * self.v_head_dim * element
            for rank in (self.kv_lora_rank, self.q_lora_rank):
                per_token += 0 if rank is None else rank * (wide + 2 * element) + wide
            return microbatch * sequence_length * per_token

        def gathered_bytes(self, tokens: int, element: int = 4, at: Coordinates = WHOLE) -> float:
            """Latents, rotated keys, and the keys and values that every rank reads from them for itself."""
            widest = max(self.qk_head_dim, self.v_head_dim)
            latent = self.kv_lora_rank + self.qk_rope_head_dim
            return tokens * (2 * self.num_heads / at.tensor * widest + latent) * element

    config: LatentAttention.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        pieces = context.pieces
        first = 0 if pieces is None else pieces.firsts
        q_SBHP = torch.cat(self.queries(x_SBD, first), dim=-1)
        latent_SBC, k_SB1R = self.latent(x_SBD, first)
        if pieces is None:
            mask = visible(len(q_SBHP), None, 0, context.documents_SB, q_SBHP.device)
            return self.output(self.read(q_SBHP, *self.keys_and_values(latent_SBC, k_SB1R), mask))
        if pieces.by_heads:
            return self.output(by_heads(self.read, q_SBHP, *self.keys_and_values(latent_SBC, k_SB1R), pieces))
        # Latents are narrower than the keys and values that every rank then reads from them itself.
        both_SBC = pieces.whole(torch.cat([latent_SBC, k_SB1R[:, :, 0]], dim=-1))
        latent_SBC, k_SBR = both_SBC.split([latent_SBC.shape[-1], k_SB1R.shape[-1]], dim=-1)
        return self.output(by_pieces(self.read, q_SBHP, *self.keys_and_values(latent_SBC, k_SBR[:, :, None]), pieces))

    def keys_and_values(self, latent_SBC: Tensor, k_SB1R: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (S, B, H, N + R) and values (S, B, H, V) of this rank's heads."""
        k_SBHN, v_SBHV = (self.heads(linear(latent_SBC, weight)) for weight in (self.k_up, self.v_up))
        return torch.cat([k_SBHN, k_SB1R.expand(*k_SBHN.shape[:3], -1)], dim=-1), v_SBHV

    def queries(self, x: Tensor, first: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Queries without positions (S, B, H, N) and rotated ones (S, B, H, R)."""
        c = self.config
        if c.q_lora_rank is not None:
            down = linear(x, self.q_down, getattr(self, "q_down_bias", None))
            x = rms_norm(down, self.q_norm, c.norm_epsilon)
        plain, turned = self.heads(linear(x, self.q)).split([c.qk_nope_head_dim, c.qk_rope_head_dim], dim=-1)
        return plain, self.turn(turned, first)

    def latent(self, x: Tensor, first: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The normed latent (S, B, C) and the rotated key (S, B, 1, R): all that decoding keeps."""
        down, key = (linear(x, getattr(self, n), getattr(self, f"{n}_bias", None)) for n in ("kv_down", "k_rope"))
        return rms_norm(down, self.kv_norm, self.config.norm_epsilon), self.turn(key[..., None, :], first)

    def turn(self, x_SBHR: Tensor, first: int | tuple[int, ...]) -> Tensor:
        """Rotation by position."""
        c = self.config
        return rotate(paired(x_SBHR) if c.rope_interleave else x_SBHR, c.rope_base, first, scaling=c.rope_scaling)

    def read(self, q_SBHP: Tensor, k_SBKP: Tensor, v_SBKV: Tensor, mask: Tensor | None) -> Tensor:
        """What each token reads, (S, B, H, V). Kernels want one width, so the narrower are padded with zeros."""
        scale = self.config.scale
        width = max(q_SBHP.shape[-1], v_SBKV.shape[-1])
        q, k, v = (F.pad(t, (0, width - t.shape[-1])) if t.shape[-1] < width else t for t in (q_SBHP, k_SBKP, v_SBKV))
        return attend(q, k, v, mask, scale)[..., : v_SBKV.shape[-1]]

    def heads(self, value: Tensor) -> Tensor:
        """(..., H * width) to (..., H, width)."""
        return value.unflatten(-1, (self.local("q"), -1))

    def output(self, y_SBHV: Tensor) -> Tensor:
        """Projection out of the heads. Returns (S, B, D), a partial sum."""
        return linear(y_SBHV.contiguous().flatten(-2), self.o)

    def initial_state(self, batch: int) -> State:
        """Latents (S, B, C) and rotated keys (S, B, 1, R) so far, with S = 0."""
        c = self.config
        return self.kv_down.new_empty(0, batch, c.kv_lora_rank), self.kv_down.new_empty(0, batch, 1, c.qk_rope_head_dim)

    def step(self, x_BD: Tensor, state: State, context: MixerContext) -> tuple[Tensor, State]:
        """Attention among latents: k_up moves from the keys to the query, v_up from the values to what was read."""
        seen = state[0].shape[0]
        latents, keys = (torch.cat(pair) for pair in zip(state, self.latent(x_BD[None], seen), strict=True))
        q_1BHN, q_1BHR = self.queries(x_BD[None], seen)
        k_up_HNC, v_up_HVC = (weight.unflatten(0, (self.local("q"), -1)) for weight in (self.k_up, self.v_up))
        q_1BHC = torch.einsum("sbhn,hnc->sbhc", q_1BHN, k_up_HNC)
        latents_SB1C = latents[:, :, None]
        everything = torch.ones(1, seen + 1, dtype=torch.bool, device=x_BD.device)
        q_1BHP, k_SB1P = torch.cat([q_1BHC, q_1BHR], dim=-1), torch.cat([latents_SB1C, keys], dim=-1)
        y_1BHC = self.read(q_1BHP, k_SB1P, latents_SB1C, everything)
        return self.output(torch.einsum("sbhc,hvc->sbhv", y_1BHC, v_up_HVC))[0], (latents, keys)
