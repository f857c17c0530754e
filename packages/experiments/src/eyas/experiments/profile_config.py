"""The `profile` group: whether some steps of a run are traced, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eyas.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps are traced."""

    kind: Literal["none", "torch"] = "none"
    """`torch` for a trace by torch's profiler, one file for each process."""
    start: int = 3
    """Steps before the trace begins, from where the run starts or goes on; the first ones are not like the others."""
    steps: int = 2
    """Steps in the trace; each is megabytes."""

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ConfigError(f"start={self.start} must not be negative")
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1")

    def check(self, steps: int) -> None:
        """Raises ConfigError where so many steps are over before the trace is."""
        if self.kind != "none" and self.start + self.steps > steps:
            raise ConfigError(
                f"profile.start={self.start} and profile.steps={self.steps} are {self.start + self.steps} steps, but "
                f"{steps} are to be trained; make them smaller, or trainer.max_steps larger"
            )
