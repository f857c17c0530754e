"""The maximal-update parametrisation: what was tuned at one width, at other widths.

A law gives the forward multipliers that follow from one tuned base model; `Widened` gives the initial spread and the
learning rate of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from types import MappingProxyType

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name

Blocks = tuple[float, float, float, float, float]
"""One multiplier for each block of Mamba-2's input projection: z, x, B, C, dt."""


@dataclass(frozen=True, kw_only=True)
class MupLaw:
    """Sizes and multipliers of a base model; each method scales one multiplier from there to other widths.

    The law is the maximal-update parametrisation with everything moved into the forward pass, so that one learning rate
    serves every width: a multiplier falls with the widths on which it depends.
    """

    hidden_size: int
    attention_width: int
    """Attention heads times head dimension."""
    head_dim: int
    ssm_width: int
    """Mamba-2 heads times head dimension."""
    state_size: int
    mlp_width: int

    base_embedding: float
    base_lm_head: float
    base_attention_input: float
    base_attention_output: float
    base_key: float
    base_ssm_input: float
    base_ssm_output: float
    base_ssm_blocks: Blocks
    base_mlp_gate: float
    base_mlp_down: float

    def embedding(self) -> float:
        """Multiplier of the embeddings; the same at every width."""
        return self.base_embedding

    def lm_head(self, hidden_size: int) -> float:
        """Multiplier of the logits."""
        return self.base_lm_head * self.hidden_size / hidden_size

    def attention_input(self) -> float:
        """Multiplier of attention's input; the same at every width."""
        return self.base_attention_input

    def attention_output(self, hidden_size: int, num_heads: int, head_dim: int) -> float:
        """Multiplier of attention's output projection."""
        width = num_heads * head_dim
        return self.base_attention_output * (self.hidden_size / hidden_size) * (self.attention_width / width)

    def key(self, hidden_size: int, head_dim: int) -> float:
        """Multiplier of the keys, before the rotation by position."""
        return self.base_key * (self.hidden_size / hidden_size) ** 2 / sqrt(head_dim / self.head_dim)

    def ssm_input(self, hidden_size: int) -> float:
        """Multiplier of Mamba-2's input."""
        return self.base_ssm_input * self.hidden_size / hidden_size

    def ssm_output(self, d_ssm: int) -> float:
        """Multiplier of Mamba-2's output projection from `d_ssm` channels."""
        return self.base_ssm_output * self.ssm_width / d_ssm

    def ssm_blocks(self, d_state: int) -> Blocks:
        """Multipliers of z, x, B, C and dt, after Mamba-2's input projection; B's falls with the state size."""
        z, x, b, c, dt = self.base_ssm_blocks
        return z, x, b * self.state_size / d_state, c, dt

    def mlp_gate(self, hidden_size: int) -> float:
        """Multiplier of the MLP's gate, inside the activation."""
        return self.base_mlp_gate * self.hidden_size / hidden_size

    def mlp_down(self, hidden_size: int, intermediate_size: int) -> float:
        """Multiplier of the MLP's output projection."""
        return self.base_mlp_down * (self.hidden_size / hidden_size) * (self.mlp_width / intermediate_size)


@dataclass(frozen=True)
class Widened:
    """What a model asks for that is `ratio` times as wide as the one that was tuned, for every block's output to begin
    and to change as there (Yang et al., 2022, Tensor Programs V, table 8, for Adam).

    It is about the matrices inside blocks; embedding, head, vectors and convolutions keep spread and learning rate.
    Widths inside blocks are to grow with the model's, by more heads rather than wider ones. Where a law moves
    everything into forward multipliers the learning rate stays, and the spread makes up for the multipliers.
    """

    ratio: float
    by_multipliers: bool = False

    @property
    def spread(self) -> float:
        """Factor of the initial standard deviation."""
        return sqrt(self.ratio) if self.by_multipliers else 1 / sqrt(self.ratio)

    @property
    def rate(self) -> float:
        """Factor of the learning rate."""
        return 1.0 if self.by_multipliers else 1 / self.ratio

    @property
    def head(self) -> float:
        """Multiplier of the logits, where no law gives one."""
        return 1 / self.ratio


FALCON_H1 = MupLaw(
    hidden_size=1280,
    attention_width=6 * 128,
    head_dim=128,
    ssm_width=24 * 64,
    state_size=256,
    mlp_width=3072,
    base_embedding=4 * sqrt(2),
    base_lm_head=2**-5,
    base_attention_input=1.0,
    base_attention_output=2**-1,
    base_key=2**-2.5,
    base_ssm_input=1.0,
    base_ssm_output=sqrt(2) / 6,
    base_ssm_blocks=(2**-1.5, 2**-2, 2**-2.5, 2**-1, 2**-1.5),
    base_mlp_gate=2**-0.5,
    base_mlp_down=5 / 16,
)
"""Falcon-H1's law. The base model is Falcon-H1-1.5B-Deep (66 layers), whose multipliers were tuned.

Derived from the released configurations: it gives the published multipliers of 0.5B, 1.5B-Deep, 7B and 34B to within
the last digit of a double, and those of 3B to the digits that were printed. Tiny-90M does not follow it.
"""

LAWS: Mapping[str, MupLaw] = MappingProxyType({"falcon_h1": FALCON_H1})
"""The laws that a configuration may name."""


def mup_law(name: str) -> MupLaw:
    """The law called `name`. Raises ConfigError with the nearest names for an unknown one."""
    if name not in LAWS:
        raise ConfigError(unknown_name("muP law", name, LAWS))
    return LAWS[name]
