"""Options of the optimizer; read before any process starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from eyas.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Weights that learn at a rate of their own."""

    parts: tuple[str, ...]
    """Which ones, as in `frozen`."""
    learning_rate_factor: float = 1.0
    """Times the learning rate of the others."""
    weight_decay_factor: float = 1.0
    """Times their weight decay."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts=[] means no weights; name some, as in optimizer.frozen, or leave the group out")
        if self.learning_rate_factor <= 0:
            raise ConfigError(
                f"learning_rate_factor={self.learning_rate_factor} must be above 0; list what is not to learn in "
                "optimizer.frozen"
            )
        if self.weight_decay_factor < 0:
            raise ConfigError(f"weight_decay_factor={self.weight_decay_factor} must not be negative")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The `optimizer` group of a configuration: AdamW and gradient clipping."""

    learning_rate: float = 3e-3
    """Peak; the schedule scales it."""
    weight_decay: float = 0.1
    """Decoupled decay of every weight that does not opt out (norms, biases and per-head scalars do)."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 for no clipping."""
    frozen: tuple[str, ...] = ()
    """Weights that stay as they are: layers (`layers.attn`), roles (`ssm`), or parts of names (`embedding`, `blocks.0`,
    `blocks.[0-3].norm`)."""
    groups: dict[str, GroupOptions] = field(default_factory=dict)
    """Name to weights that learn faster or slower: {head: {parts: [head], learning_rate_factor: 0.1}}."""
    cpu_offload: float = 0.0
    """Share of the weights of a GPU whose moments lie in the host's memory between steps. A step brings them to the GPU
    a quarter of a GiB, or one larger weight's, at a time. It has not been run on a GPU yet."""

    def __post_init__(self) -> None:
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.cpu_offload <= 1:
            raise ConfigError(f"cpu_offload={self.cpu_offload} must be a share from 0 to 1")
        if self.learning_rate <= 0 or self.epsilon <= 0:
            raise ConfigError(f"learning_rate={self.learning_rate} and epsilon={self.epsilon} must be above 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(f"beta1={self.beta1} and beta2={self.beta2} must be at least 0 and below 1")

    def check_device(self, gpu: bool) -> None:
        """Raises ConfigError where moments are to leave a GPU and there is none."""
        if self.cpu_offload and not gpu:
            raise ConfigError(
                f"optimizer.cpu_offload={self.cpu_offload} keeps moments of a GPU's weights on the host, but this "
                "machine has no GPU and they lie there already; set it to 0"
            )
