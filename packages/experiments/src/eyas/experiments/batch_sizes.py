"""How many sequences a step works through: the global batch, or less while it grows at the start of a run."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BatchRamp:
    """A global batch that grows from step to step at the start of a run, in equal stages."""

    start: int
    """Sequences in the steps of the first stage."""
    increment: int
    """Sequences by which each stage has more than the one before; the one after the last has the full batch."""
    steps: int
    """Steps before the batch is full, divided evenly among the stages."""

    def __post_init__(self) -> None:
        for name in ("start", "increment", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")

    def check(self, full: int) -> None:
        """Raises ConfigError where the stages do not lead to a batch of `full` sequences."""
        if self.start >= full or (full - self.start) % self.increment:
            fitting = full - self.increment * max(1, (full - self.start) // self.increment)
            remedy = f"start={fitting} or another increment" if fitting > 0 else "a smaller start and increment"
            raise ConfigError(
                f"batch_ramp.start={self.start} does not grow to global_batch={full} by increments of "
                f"{self.increment}; choose {remedy}"
            )
        stages = (full - self.start) // self.increment
        if self.steps < stages:
            raise ConfigError(
                f"batch_ramp.steps={self.steps} has no step for some of the {stages} stages from {self.start} to "
                f"{full} sequences; choose {stages} or more, or a larger increment"
            )


@dataclass(frozen=True)
class BatchSizes:
    """Sequences in the global batch of each step, over all replicas."""

    full: int
    ramp: BatchRamp | None = None

    @property
    def all(self) -> list[int]:
        """Every size that occurs, in order."""
        return [size for _, size in self._stages()]

    def at(self, step: int) -> int:
        """Sequences in step 0, 1, ..."""
        return next(size for first, size in reversed(self._stages()) if step >= first)

    def before(self, step: int) -> int:
        """Sequences in all steps before this one."""
        stages = self._stages()
        ends = [first for first, _ in stages[1:]] + [max(step, stages[-1][0])]
        return sum(size * max(0, min(step, end) - first) for (first, size), end in zip(stages, ends, strict=True))

    def _stages(self) -> list[tuple[int, int]]:
        """First step and size of each stage; the last one never ends."""
        if self.ramp is None:
            return [(0, self.full)]
        number = (self.full - self.ramp.start) // self.ramp.increment
        firsts = [-(-stage * self.ramp.steps // number) for stage in range(number + 1)]
        return [(first, self.ramp.start + stage * self.ramp.increment) for stage, first in enumerate(firsts)]
