"""The `upcycle` group: a run that starts from a dense one, with mixtures of experts in the place of its MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eyas.core.errors import ConfigError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelSpec, load_model
from eyas.core.nearest import unknown_name

if TYPE_CHECKING:
    from eyas.layers.upcycle import Grown

DENSE, MIXTURE = "mlp", "moe"


@dataclass(frozen=True, kw_only=True)
class UpcycleConfig:
    """How dense layers become mixtures of experts (He et al., 2024)."""

    copies: int | None = None
    """How often a mixture has the dense layer; null for no upcycling."""
    granularity: int = 1
    """Experts that each copy is cut into, which are chosen together: copies x granularity experts."""
    top_k: int = 2
    """Experts of each token, a multiple of the granularity."""
    score: Literal["softmax", "softmax_of_chosen"] = "softmax"
    """Weights of the chosen; see the mixture's own option."""
    weight_scaling: bool = True
    """Whether the experts' matrices make up for what their weights and their number take from the output."""
    balance_loss: float = 1e-2
    """Coefficient of the load-balancing loss."""
    layers: tuple[str, ...] | None = None
    """Which layers of the dense model; null for all its MLPs."""

    def __post_init__(self) -> None:
        for name in ("copies", "granularity", "top_k"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.copies is not None and (self.top_k % self.granularity or self.top_k > self.copies * self.granularity):
            raise ConfigError(
                f"top_k={self.top_k} must be a multiple of granularity={self.granularity}, for a token to reach whole "
                f"copies of the dense layer, and at most {self.copies * self.granularity} experts"
            )


def upcycled(model: Mapping[str, Any], config: UpcycleConfig) -> dict[str, Any]:
    """The `model` group of the mixture, for that of a dense model. Raises ConfigError for layers that cannot be one."""
    spec = load_model(model)
    layers = {**model["layers"]}
    for name, dense in chosen(spec, config).items():
        layers[name] = mixture(f"upcycle: model.layers.{name}", dense, config)
    grown = {**model, "layers": layers, "pattern": str(spec.pattern), "repeat": 1}  # letters tell MLP and mixture apart
    load_model(grown)
    return grown


def chosen(spec: ModelSpec, config: UpcycleConfig) -> dict[str, Any]:
    """The dense layers that become mixtures, by name."""
    dense: dict[str, MixerConfig] = {name: layer for name, layer in spec.layers.items() if layer.kind == DENSE}
    if not dense:
        raise ConfigError(f"upcycle.copies={config.copies}: the dense model has no layer of kind {DENSE}")
    for name in config.layers or ():
        if name not in dense:
            raise ConfigError(f"upcycle.layers: {unknown_name(f'layer of kind {DENSE}', name, dense)}")
    return {name: layer for name, layer in dense.items() if config.layers is None or name in config.layers}


def mixture(path: str, dense: Any, config: UpcycleConfig) -> dict[str, Any]:
    """Options of the mixture in the place of a dense layer."""
    assert config.copies is not None
    if dense.bias:
        raise ConfigError(f"{path}.bias=true, and experts have no biases; choose other layers with upcycle.layers")
    if dense.intermediate_size % config.granularity:
        raise ConfigError(
            f"{path}.intermediate_size={dense.intermediate_size} cannot be cut into "
            f"upcycle.granularity={config.granularity} equal experts; choose a divisor of it"
        )
    return {
        "kind": MIXTURE,
        "num_experts": config.copies * config.granularity,
        "top_k": config.top_k,
        "intermediate_size": dense.intermediate_size // config.granularity,
        "gated": dense.gated,
        "activation": dense.activation,
        "score": config.score,
        "balance_loss": config.balance_loss,
        "output_multiplier": dense.down_multiplier,
    }


def experts_of(spec: ModelSpec, config: UpcycleConfig) -> dict[str, Grown]:
    """How the mixtures' experts come from the layers of the dense model, by name."""
    from eyas.layers.upcycle import grown, weight_scale

    assert config.copies is not None
    return {
        name: grown(
            dense,
            config.granularity,
            weight_scale(dense.activation, dense.gated, config.copies, config.granularity, config.top_k, config.score)
            if config.weight_scaling
            else 1.0,
        )
        for name, dense in chosen(spec, config).items()
    }
