"""Causal softmax attention with grouped key-value heads (Vaswani et al., 2017; Ainslie et al., 2023)."""

# S sequence, B batch, D hidden, H query heads, K key-value heads, P head dim

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one, configured
from eyas.core.mup import MupLaw
from eyas.core.registry import register
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, replicated, row
from eyas.layers.attend import attend, attend_with_sinks, mean_seen, through_window, visible
from eyas.layers.attend_pieces import by_heads, by_pieces
from eyas.layers.initial import ones, zeros
from eyas.layers.linear import linear
from eyas.layers.norm import rms_norm
from eyas.layers.rope_scaling import RopeScaling
from eyas.layers.rotary import rotate

State = tuple[Tensor, Tensor, int]


@register("attention", symbol="*")
class Attention(Mixer):
    """Softmax attention: multi-head, grouped-query or multi-query; rotary or no positions; full or sliding window."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of attention."""

        role = "attention"
        carries_documents = True
        carries_context = True
        exchanges_heads = True

        num_heads: int
        """Query heads; split over the tensor-parallel ranks."""
        num_kv_heads: int | None = None
        """Key-value heads, a divisor of num_heads: equal to it is multi-head (the default), 1 is multi-query."""
        head_dim: int
        """Channels per head; independent of hidden_size / num_heads."""
        rope_base: float | None = 10_000.0
        """Base of the rotary frequencies; null for no position embedding."""
        rope_scaling: RopeScaling | None = None
        """How the frequencies are stretched for longer texts; null for not."""
        rotary_dim: int | None = None
        """Channels of a head that are rotated, its first ones; null for all."""
        window: int | None = None
        """Tokens that a token sees, itself included; null for all before it."""
        sink_tokens: int | None = None
        """Tokens at the front of a document that are seen through any window; null for the model's meta tokens."""
        qk_norm: bool = False
        """RMSNorm over head_dim on queries and keys, before the rotation."""
        norm_epsilon: float = 1e-5
        input_size: int | None = None
        """Width of what the queries, keys and values are projected from; null for what the block reads."""
        softmax_scale: float | None = None
        """Scales the products of queries and keys; null means 1 / sqrt(head_dim)."""
        lends_kv: str | None = None
        """Name under which attention of later blocks may use this one's keys and values; null for none."""
        borrows_kv: str | None = None
        """Name of the keys and values of an earlier block to use in place of its own (Brandon et al., 2024)."""
        sinks: bool = False
        """One learned logit per head in the softmax's denominator, so that a head may attend to nothing."""
        qkv_bias: bool = False
        output_bias: bool = False
        input_multiplier: float | None = None
        """Scales the input of the three projections; null means 1, or what the model's muP law gives."""
        key_multiplier: float | None = None
        """Scales the keys before the rotation, and behind the norm where there is `qk_norm`."""
        output_multiplier: float | None = None
        """Scales the output, its bias included."""

        def __post_init__(self) -> None:
            at_least_one(self, "num_heads", "head_dim", "window", "input_size")
            if self.kv_heads < 1 or self.num_heads % self.kv_heads:
                raise ConfigError(
                    f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}; "
                    "query heads share key-value heads in equal groups"
                )
            if self.rotary_dim is not None and (self.rope_base is None or not 2 <= self.rotary_dim <= self.head_dim):
                raise ConfigError(
                    f"rotary_dim={self.rotary_dim} must be from 2 to head_dim={self.head_dim}, with a rope_base; "
                    "null rotates all channels"
                )
            if self.rotated % 2:
                field = "head_dim" if self.rotary_dim is None else "rotary_dim"
                raise ConfigError(f"{field}={self.rotated} must be even for rotary positions; or set rope_base=null")
            if self.rope_scaling is not None and self.rope_base is None:
                raise ConfigError("rope_scaling needs rotary positions; set rope_base, or rope_scaling=null")
            if self.sink_tokens is not None and self.sink_tokens < 0:
                raise ConfigError(f"sink_tokens={self.sink_tokens} must not be negative")
            for field in ("lends_kv", "key_multiplier") if self.borrows_kv is not None else ():
                if getattr(self, field) is not None:
                    raise ConfigError(
                        f"{field}={getattr(self, field)} is for keys of its own; leave it out beside "
                        f"borrows_kv={self.borrows_kv}"
                    )

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_heads": max(1, hidden_size // 64), "head_dim": 64}

        @property
        def kv_heads(self) -> int:
            return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

        @property
        def lends(self) -> str | None:
            return self.lends_kv

        @property
        def borrows(self) -> str | None:
            return self.borrows_kv

        def check_lender(self, lender: MixerConfig) -> None:
            for field in ("kv_heads", "head_dim", "rope_base", "rotated", "rope_scaling", "window", "sink_tokens"):
                mine, theirs = getattr(self, field), getattr(lender, field, None)
                if mine != theirs:
                    raise ConfigError(f"borrows_kv={self.borrows_kv} needs the lender's {field}: {theirs}, not {mine}")

        @property
        def own_kv_heads(self) -> int:
            """Key-value heads that have weights and a cache here."""
            return 0 if self.borrows_kv is not None else self.kv_heads

        def input_width(self, hidden_size: int) -> int:
            return self.input_size or hidden_size

        def with_input_width(self, width: int) -> Self:
            return self if self.input_size is not None else replace(self, input_size=width)

        @property
        def rotated(self) -> int:
            """Channels of a head that are rotated."""
            if self.rope_base is None:
                return 0
            return self.head_dim if self.rotary_dim is None else self.rotary_dim

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            reads = self.input_width(hidden_size)
            heads = Axis("num_heads", self.num_heads)
            projected = {"q": heads}
            if self.own_kv_heads:
                projected["k"] = projected["v"] = Axis("num_kv_heads", self.kv_heads, shared=True)
            declared = {name: column(split, self.head_dim, reads) for name, split in projected.items()}
            declared["o"] = row(hidden_size, heads, self.head_dim)
            if self.qkv_bias:
                for name, split in projected.items():
                    declared[f"{name}_bias"] = column(split, self.head_dim, init=zeros, decay=False)
            for name in (name for name in projected if self.qk_norm and name != "v"):
                declared[f"{name}_norm"] = replicated(self.head_dim, init=ones, decay=False)
            if self.sinks:
                declared["sinks"] = column(heads, 1, decay=False)
            if self.output_bias:
                declared["output_bias"] = replicated(hidden_size, init=zeros, decay=False, partial_gradient=False)
            return declared

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            seen = mean_seen(sequence_length, self.window, self.sink_tokens or 0)
            into = 2.0 * self.input_width(hidden_size) * self.head_dim * (self.num_heads + 2 * self.own_kv_heads)
            projections = into + 2.0 * hidden_size * self.head_dim * self.num_heads
            return projections + 4.0 * seen * self.num_heads * self.head_dim

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            window = sequence_length if self.window is None else self.window + (self.sink_tokens or 0)
            kept = min(window, sequence_length)
            return 2 * kept * self.own_kv_heads * self.head_dim * element

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Queries, keys, values, output and the softmax's normaliser; the norm's input, result and statistics; the
            mask. Sinks make tokens and heads larger by one and the output a copy. The rotary table is not counted: all
            layers share one."""
            wide, seen = max(element, 4), sequence_length + self.sinks
            heads, kv_heads = self.num_heads / at.tensor, max(1.0, self.kv_heads / at.tensor)
            own = kv_heads if self.own_kv_heads else 0.0
            kv_heads = kv_heads if self.sinks else own  # with sinks a copy, whosever they are
            kept = seen * (2 * (heads + kv_heads) * (self.head_dim + self.sinks) * element + heads * wide)
            if self.qk_norm:
                kept += sequence_length * (heads + own) * (self.head_dim * (wide + element) + wide)
            if self.sinks:
                kept += sequence_length * heads * self.head_dim * element
            masked = self.window is not None and self.window < sequence_length
            return microbatch * kept + masked * seen**2 * element

        def gathered_bytes(self, tokens: int, element: int = 4, at: Coordinates = WHOLE) -> float:
            return 2 * tokens * max(1.0, self.kv_heads / at.tensor) * self.head_dim * element

        def with_law(self, law: MupLaw, hidden_size: int) -> Self:
            return replace(
                self,
                input_multiplier=configured(self.input_multiplier, law.attention_input()),
                # What the law makes up for, a norm of the keys takes away.
                key_multiplier=configured(self.key_multiplier, law.key(hidden_size, self.head_dim))
                if self.own_kv_heads and not self.qk_norm
                else self.key_multiplier,
                output_multiplier=configured(
                    self.output_multiplier, law.attention_output(hidden_size, self.num_heads, self.head_dim)
                ),
            )

        def with_meta_tokens(self, meta_tokens: int) -> Self:
            return self if self.sink_tokens is not None else replace(self, sink_tokens=meta_tokens)

    config: Attention.Config

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        c, pieces = self.config, context.pieces
        first, sinks = 0 if pieces is None else pieces.firsts, c.sink_tokens or 0
        q = self.turn("q", self.project("q", x_SBD), first)
        k, v, _ = context.lent[c.borrows_kv] if c.borrows_kv else (*self.keys_and_values(x_SBD, first), 0)
        if c.lends_kv:
            context.lent[c.lends_kv] = k, v, 0
        if pieces is None:
            y_SBHP = self.attend(q, k, v, visible(len(q), c.window, sinks, context.documents_SB, q.device))
        elif pieces.by_heads:
            read = partial(self.attend, sinks_H=pieces.own_heads(self.sinks) if c.sinks else None)
            y_SBHP = by_heads(read, q, k, v, pieces, c.window, sinks)
        else:
            k, v = pieces.whole(torch.cat([k, v], dim=-1)).chunk(2, dim=-1)
            y_SBHP = by_pieces(self.attend, q, k, v, pieces, c.window, sinks)
        return self.output(y_SBHP)

    def project(self, name: str, x_SBD: Tensor, scale: float | None = None) -> Tensor:
        """The queries, keys or values "q", "k" or "v" of x, (S, B, heads, P)."""
        c, bias = self.config, getattr(self, f"{name}_bias", None)
        y_SBC = linear(x_SBD, getattr(self, name), bias, scale_in=c.input_multiplier, scale_out=scale)
        return y_SBC.unflatten(-1, (-1, c.head_dim))

    def turn(self, name: str, t_SBHP: Tensor, first: int | tuple[int, ...]) -> Tensor:
        """Queries or keys, normed and rotated, of tokens that begin at position `first`."""
        c = self.config
        if c.qk_norm:
            t_SBHP = rms_norm(t_SBHP, getattr(self, f"{name}_norm"), c.norm_epsilon)
            if name == "k" and c.key_multiplier is not None:
                t_SBHP = t_SBHP * c.key_multiplier
        return t_SBHP if c.rope_base is None else rotate(t_SBHP, c.rope_base, first, c.rotated, c.rope_scaling)

    def keys_and_values(self, x_SBD: Tensor, first: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Of x, whose tokens begin at position `first`, each (S, B, K, P)."""
        c = self.config
        scale = None if c.qk_norm else c.key_multiplier  # a norm behind it would take it out again
        return self.turn("k", self.project("k", x_SBD, scale), first), self.project("v", x_SBD)

    def attend(
        self, q_SBHP: Tensor, k_SBKP: Tensor, v_SBKP: Tensor, mask: Tensor | None, sinks_H: Tensor | None = None
    ) -> Tensor:
        """What each token reads, (S, B, H, P). `sinks` are those of the heads where they are not all of this rank's."""
        scale = configured(self.config.softmax_scale, self.config.head_dim**-0.5)
        if not self.config.sinks:
            return attend(q_SBHP, k_SBKP, v_SBKP, mask, scale)
        return attend_with_sinks(q_SBHP, k_SBKP, v_SBKP, mask, scale, self.sinks if sinks_H is None else sinks_H)

    def output(self, y_SBHP: Tensor) -> Tensor:
        """Projection out of the heads. Returns (S, B, D), a partial sum."""
        return linear(y_SBHP.flatten(-2), self.o, scale_out=self.config.output_multiplier)

    def bias_after_sum(self) -> Tensor | None:
        bias = super().bias_after_sum()
        return None if bias is None else bias * configured(self.config.output_multiplier, 1.0)

    def initial_state(self, batch: int) -> State | None:
        """Keys and values so far, each (S, B, K, P) with S = 0, and the number of tokens seen; None where borrowed."""
        if self.config.borrows_kv:
            return None
        empty = self.k.new_empty(0, batch, self.local("k"), self.config.head_dim)
        return empty, empty, 0

    def step(self, x_BD: Tensor, state: State | None, context: MixerContext) -> tuple[Tensor, State | None]:
        y_SBD, state = self.prefill(x_BD[None], state, context)
        return y_SBD[0], state

    def prefill(self, x_SBD: Tensor, state: State | None, context: MixerContext) -> tuple[Tensor, State | None]:
        c, first = self.config, self.config.sink_tokens or 0
        if state is None:
            keys, values, seen = context.lent[c.borrows_kv or ""]
        else:
            keys, values, seen = state
            k_SBKP, v_SBKP = self.keys_and_values(x_SBD, seen)
            keys, values = torch.cat([keys, k_SBKP]), torch.cat([values, v_SBKP])
        if c.lends_kv:
            context.lent[c.lends_kv] = keys, values, seen
        q_SBHP = self.turn("q", self.project("q", x_SBD), seen)
        mask = visible(keys.shape[0], c.window, first, None, x_SBD.device, queries=x_SBD.shape[0])
        y_SBD = self.output(self.attend(q_SBHP, keys, values, mask))
        if state is None:
            return y_SBD, None
        if c.window is not None:
            keys, values = (through_window(kept, c.window, first) for kept in (keys, values))
        return y_SBD, (keys, values, seen + x_SBD.shape[0])
