"""Mixers that stand in for installed packages where eyas.core is tested by itself."""

from dataclasses import dataclass, replace

from eyas.core.errors import ConfigError
from eyas.core.mixer_config import MixerConfig, configured
from eyas.core.registry import Registered
from eyas.core.weights import WHOLE, Axis, column


@dataclass(frozen=True, kw_only=True)
class Box(MixerConfig):
    """One matrix, and costs that a test can count on its fingers."""

    kind = "box"

    width: int = 1
    scale: float | None = None

    def __post_init__(self):
        if self.width < 1:
            raise ConfigError(f"width={self.width} must be at least 1")

    def weights(self, hidden_size):
        return {"matrix": column(Axis("width", self.width), 1, hidden_size)}

    def flops(self, hidden_size, sequence_length, convention="exact"):
        return self.width * sequence_length * (2 if convention == "exact" else 1)

    def activation_bytes(self, hidden_size, sequence_length, microbatch, element=4, at=WHOLE):
        return self.width / at.tensor * sequence_length * microbatch * element

    def state_bytes(self, hidden_size, sequence_length, element=2):
        return self.width * sequence_length * element

    def with_law(self, law, hidden_size):
        return replace(self, scale=configured(self.scale, law.lm_head(hidden_size)))


class BoxMixer:
    """A box."""

    Config = Box


TABLE = {"box": Registered("box", "X", BoxMixer, "eyas-boxes")}
