"""From logits to a token: the likeliest one, or a draw with temperature, top-k and top-p."""

# V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eyas.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn; the laws apply in the order of the fields."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw among the k likeliest tokens, and those that tie with the last of them; null for all."""
    top_p: float = 1.0
    """Draw among the fewest likeliest tokens that have this probability together (Holtzman et al., 2020)."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature={self.temperature} must not be negative; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k} must be at least 1, or null")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must be above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        """Whether the token follows from the logits alone."""
        return self.temperature == 0

    def token(self, logits_V: Tensor, random: torch.Generator) -> int:
        """One token by its logits."""
        if self.greedy:
            return int(logits_V.argmax())
        return int(torch.multinomial(self.probabilities(logits_V), 1, generator=random))

    def probabilities(self, logits_V: Tensor) -> Tensor:
        """The distribution that `token` draws from, (V,) in float64; the temperature must be above 0. The logits as
        they are tell which tokens are likelier: what is made of them may round to the same."""
        wide_V = logits_V.double()
        scaled_V = (wide_V - wide_V.max()) / self.temperature
        if self.top_k is not None:
            last = wide_V.topk(min(self.top_k, len(wide_V))).values[-1]
            scaled_V = scaled_V.masked_fill(wide_V < last, float("-inf"))
        return nucleus(scaled_V.softmax(-1), wide_V.argsort(descending=True, stable=True), self.top_p)


def nucleus(probabilities_V: Tensor, order_V: Tensor, top_p: float) -> Tensor:
    """The probabilities (V,) of the first tokens in an order, likeliest first, that reach `top_p` together, scaled to a
    sum of 1."""
    falling_V = probabilities_V[order_V]
    before_V = F.pad(falling_V.cumsum(-1)[:-1], (1, 0))
    kept_V = falling_V.masked_fill(before_V >= top_p, 0.0)
    return torch.zeros_like(probabilities_V).scatter(-1, order_V, kept_V / kept_V.sum())
