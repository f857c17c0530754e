"""How a mixture of experts chooses: the rule, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eyas.core.errors import ConfigError

Score = Literal["softmax", "softmax_of_chosen", "sigmoid"]
DropPolicy = Literal["probability", "position"]


@dataclass(frozen=True, kw_only=True)
class RoutingRule:
    """Chooses `top_k` of `num_experts` for a token and weighs them; balances the load by auxiliary losses."""

    num_experts: int
    top_k: int
    score: Score = "softmax_of_chosen"
    """`softmax` over all experts, of which the chosen keep their share; `softmax_of_chosen` over the chosen alone (the
    same as the shares made to sum to one); `sigmoid` of each, made to sum to one (DeepSeek-V3)."""
    num_groups: int | None = None
    """Equal groups of experts of which a token may use `top_groups` alone; null for no groups."""
    top_groups: int | None = None
    scaling_factor: float = 1.0
    """Scales the weights of the chosen."""
    balance_loss: float = 0.0
    """Coefficient of the auxiliary loss over a microbatch (Fedus et al., 2021)."""
    sequence_balance_loss: float = 0.0
    """Coefficient of the same loss over each sequence (DeepSeek-V3)."""
    z_loss: float = 0.0
    """Coefficient of the mean squared logsumexp of the logits (Zoph et al., 2022)."""
    capacity_factor: float | None = None
    """An expert takes at most this many times its even share of a microbatch's tokens and drops the rest; null for as
    many as come."""
    drop_policy: DropPolicy = "probability"
    """Which tokens stay where there are too many: those of the greatest weight, or the first."""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(f"top_k={self.top_k} must be between 1 and num_experts={self.num_experts}")
        if self.top_k == 1 and self.score == "softmax_of_chosen":
            raise ConfigError(
                "score=softmax_of_chosen of top_k=1 is always one and teaches the router nothing; use softmax"
            )
        if (self.num_groups is None) != (self.top_groups is None):
            raise ConfigError("num_groups and top_groups go together; set both or neither")
        if self.num_groups is not None and self.top_groups is not None:
            self._check_groups(self.num_groups, self.top_groups)
        for field in ("balance_loss", "sequence_balance_loss", "z_loss"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field}={getattr(self, field)} must be at least 0")
        if self.scaling_factor <= 0:
            raise ConfigError(f"scaling_factor={self.scaling_factor} must be above 0")
        if self.drop_policy != "probability" and self.capacity_factor is None:
            raise ConfigError(f"drop_policy={self.drop_policy} drops nothing without a capacity; set capacity_factor")
        if self.capacity_factor is not None and self.capacity_factor <= 0:
            raise ConfigError(f"capacity_factor={self.capacity_factor} must be above 0, or null to drop no token")

    def _check_groups(self, groups: int, chosen: int) -> None:
        if groups < 1 or self.num_experts % groups:
            raise ConfigError(f"num_groups={groups} must divide num_experts={self.num_experts}")
        if not 1 <= chosen <= groups or self.top_k % chosen:
            raise ConfigError(f"top_groups={chosen} must be at most num_groups={groups} and divide top_k={self.top_k}")
        if self.top_k > chosen * (self.num_experts // groups):
            raise ConfigError(
                f"top_k={self.top_k} experts are not in top_groups={chosen} groups of {self.num_experts // groups}"
            )
