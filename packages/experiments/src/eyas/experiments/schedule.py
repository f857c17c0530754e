"""How the learning rate and the weight decay change over a run: both are multipliers of the optimizer's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eyas.core.errors import ConfigError

Kind = Literal["wsd", "cosine", "linear", "constant", "falcon_power"]
DecayShape = Literal["linear", "cosine", "exponential", "minus_sqrt"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DECAY_SHAPES: tuple[DecayShape, ...] = get_args(DecayShape)
FALCON_EXPONENT = -0.25
"""Falcon-H1's Effective Power Scheduler: learning rate and weight decay both fall as t^-1/4 (Falcon-H1 report)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, a stable stage and a decay."""

    kind: Kind = "wsd"
    """wsd: constant, then a decay at the end; cosine, linear: a decay from the end of the warm-up; constant: no decay;
    falcon_power: learning rate and weight decay fall as t^-1/4, then the learning rate decays at the end."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises linearly to its full value; null for a tenth of the run."""
    decay_fraction: float = 0.1
    """Share of the run that is the decay of wsd and falcon_power."""
    decay_steps: int | None = None
    """Steps of that decay, in place of decay_fraction."""
    decay_shape: DecayShape = "minus_sqrt"
    """How the learning rate falls in that decay."""
    min_lr_ratio: float = 0.0
    """What the decay falls to, as a share of the learning rate without it; see `learning_rate` for its last step."""

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("decay_shape", self.decay_shape, DECAY_SHAPES)):
            if value not in known:
                raise ConfigError(f"schedule.{name}={value} is unknown; choose one of {', '.join(known)}")
        for name, steps in (("warmup_steps", self.warmup_steps or 0), ("decay_steps", self.decay_steps or 0)):
            if steps < 0:
                raise ConfigError(f"schedule.{name}={steps} must not be negative")
        for name, share in (("decay_fraction", self.decay_fraction), ("min_lr_ratio", self.min_lr_ratio)):
            if not 0 <= share <= 1:
                raise ConfigError(f"schedule.{name}={share} must lie between 0 and 1")

    def check(self, total_steps: int) -> None:
        """Raises ConfigError where the stages do not fit into a run of `total_steps`."""
        warmup = self.warmup(total_steps)
        if warmup > total_steps:
            raise ConfigError(
                f"schedule.warmup_steps={warmup} is longer than the run of {total_steps} steps; "
                f"choose at most {total_steps}"
            )
        if warmup + (decay := self._decay_length(total_steps)) > total_steps:
            raise ConfigError(
                f"schedule.warmup_steps={warmup} and a decay of {decay} steps do not fit into the run of "
                f"{total_steps} steps; shorten schedule.warmup_steps or the decay"
            )

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Multiplier of the learning rate in step 0, 1, ... of `total_steps`.

        As in the schedulers of Megatron-Core (optimizer_param_scheduler.py, `get_lr`) and of Hugging Face's
        transformers, step s of a decay of n steps, counted from 0, has s/n of it behind it: the last step is trained
        one n-th above the decay's end, and a decay to 0 has no step that does nothing.
        """
        rise = min(1.0, (step + 1) / max(self.warmup(total_steps), 1))
        return rise * self._power(step, total_steps) * self._decay(step, total_steps)

    def weight_decay(self, step: int, total_steps: int) -> float:
        """Multiplier of the weight decay: 1, but for falcon_power, which keeps sqrt(weight decay / learning rate)
        constant between warm-up and decay."""
        return self._power(step, total_steps)

    def warmup(self, total_steps: int) -> int:
        """Steps of the warm-up in a run of `total_steps`."""
        return total_steps // 10 if self.warmup_steps is None else self.warmup_steps

    def before_decay(self, total_steps: int) -> int:
        """Steps before the decay in a run of `total_steps`."""
        return total_steps - self._decay_length(total_steps)

    def _power(self, step: int, total_steps: int) -> float:
        if self.kind != "falcon_power":
            return 1.0
        reference = max(self.warmup(total_steps), 1)
        return math.pow(max(step + 1, reference) / reference, FALCON_EXPONENT)

    def _decay_length(self, total_steps: int) -> int:
        if self.kind == "constant":
            return 0
        if self.kind in ("cosine", "linear"):
            return max(total_steps - self.warmup(total_steps), 0)
        return self.decay_steps if self.decay_steps is not None else round(self.decay_fraction * total_steps)

    def _decay(self, step: int, total_steps: int) -> float:
        length = self._decay_length(total_steps)
        done = step - self.before_decay(total_steps)
        if length == 0 or done <= 0:
            return 1.0
        shape: DecayShape = self.kind if self.kind in ("cosine", "linear") else self.decay_shape
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * decay(shape, min(done / length, 1.0))


def decay(shape: DecayShape, done: float) -> float:
    """What is left of the learning rate when a share `done` of the decay is over: 1 at 0, 0 at 1.

    The four annealing shapes of Megatron-Core's OptimizerParamScheduler for warm-up, stable, decay.
    """
    match shape:
        case "linear":
            return 1 - done
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "exponential":
            return 2 * math.pow(0.5, done) - 1
        case "minus_sqrt":
            return 1 - math.sqrt(done)
