"""Rotary frequencies stretched for longer texts than a model was first trained on: Llama 3.1's rule, and YaRN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer_config import configured

FAST = {"llama3": 4.0, "yarn": 32.0}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Channels that turn seldom within the original length are slowed down by the factor, those that turn often are
    left alone, and those between get a part of it."""

    rule: Literal["llama3", "yarn"]
    """Between, `llama3` goes by how often a channel turns (Llama 3.1), `yarn` by its index (Peng et al., 2023), and
    makes cos and sin larger besides."""
    factor: float
    """How many times as long the texts become."""
    original_length: int
    """Tokens of the texts of the first training."""
    slow_turns: float = 1.0
    """Turns within the original length, up to which the whole factor applies."""
    fast_turns: float | None = None
    """Turns from which on nothing changes; null means 4 for llama3 and 32 for yarn."""
    attention_factor: float | None = None
    """yarn: scales cos and sin; null means what mscale and mscale_all_dim say, else 0.1 ln(factor) + 1."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """yarn: both together make cos and sin larger by (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1);
    in `mla` the latter also scales the softmax (DeepSeek-V3)."""
    truncate: bool = True
    """yarn: round the indices where the change begins and ends to whole channels."""

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_length < 1:
            raise ConfigError(f"factor={self.factor} and original_length={self.original_length} must be at least 1")
        if not 0 < self.slow_turns < self.most_turns:
            raise ConfigError(f"slow_turns={self.slow_turns} must be above 0 and below fast_turns={self.most_turns}")
        own = ("attention_factor", "mscale", "mscale_all_dim")
        given = [name for name in own if getattr(self, name) is not None] + ["truncate"] * (not self.truncate)
        if self.rule != "yarn" and given:
            raise ConfigError(f"{given[0]}={getattr(self, given[0])} is an option of rule=yarn, not of {self.rule}")

    @property
    def most_turns(self) -> float:
        return configured(self.fast_turns, FAST[self.rule])

    @property
    def magnitude(self) -> float:
        """What scales cos and sin."""
        if self.rule != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self.growth(self.mscale) / self.growth(self.mscale_all_dim)
        return self.growth(1.0)

    @property
    def softmax_factor(self) -> float:
        """What scales the softmax in multi-head latent attention."""
        return self.growth(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def growth(self, scale: float) -> float:
        """YaRN's temperature (equation 22), with DeepSeek's `mscale`."""
        return 0.1 * scale * math.log(self.factor) + 1

    def stretched(self, frequency: Tensor, base: float) -> Tensor:
        """The frequencies base^(-2i/channels), one for each pair of channels, after the rule."""
        kept = (self._by_turns(frequency) if self.rule == "llama3" else self._by_index(frequency, base)).clamp(0, 1)
        return frequency * (kept + (1 - kept) / self.factor)

    def _by_turns(self, frequency: Tensor) -> Tensor:
        turns = self.original_length * frequency / (2 * math.pi)
        return (turns - self.slow_turns) / (self.most_turns - self.slow_turns)

    def _by_index(self, frequency: Tensor, base: float) -> Tensor:
        channels = 2 * len(frequency)

        def index(turns: float) -> float:
            return channels * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        first, last = index(self.most_turns), index(self.slow_turns)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, channels - 1)
        place = torch.arange(len(frequency), dtype=frequency.dtype, device=frequency.device)
        return 1 - (place - first) / (last - first or 0.001)
