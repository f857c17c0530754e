"""What several families of Hugging Face's share: rows of their tables, and older spellings of their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Option, Part, TheirConfig, option

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu2": "squared_relu"}
"""Their names of activation functions that we have."""
OLD_LAYER_TYPES = {"mamba": "linear_attention", "attention": "full_attention"}
"""Spellings of layer types before transformers 5."""
UNLIMITED = (0.0, float("inf"))


def limits(found: Sequence[float] | None) -> list[float]:
    """Limits of the time steps: none where the file has null."""
    return list(UNLIMITED if found is None else found)


def activation(theirs: str, *ours: str, **details: Any) -> Option:
    """An option that names an activation function."""

    def to_ours(name: str) -> str:
        if name not in ACTIVATIONS:
            raise ConfigError(f"config.json: {theirs}={name!r} is not supported; Eyas has {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def to_theirs(name: str) -> str:
        found = [key for key, value in ACTIVATIONS.items() if value == name]
        if not found:
            raise ConfigError(f"{ours[0]}={name} has no name in Hugging Face's config.json")
        return found[0]

    return option(theirs, *ours, to_ours=to_ours, to_theirs=to_theirs, **details)


MODEL = (
    option("hidden_size", "hidden_size"),
    option("vocab_size", "vocab_size"),
    option("initializer_range", "init_std", default=0.02),
    option("tie_word_embeddings", "tie_embeddings", default=False),
)
ATTENTION = (
    option("num_attention_heads", "attention.num_heads"),
    option("num_key_value_heads", "attention.num_kv_heads", default=None),
    option("head_dim", "attention.head_dim"),
    option("attention_bias", "attention.qkv_bias", "attention.output_bias", default=False),
)


def positions(base: float | None) -> float:
    """The base of rotary positions. Raises ConfigError where there are none."""
    if base is None:
        raise ConfigError("attention.rope_base=null cannot be expressed where attention has rotary positions")
    return base


ROPE = option("rope_parameters.rope_theta", "attention.rope_base", default=10_000.0, to_theirs=positions)
MAMBA = (
    option("mamba_n_heads", "mamba2.num_heads"),
    option("mamba_d_head", "mamba2.head_dim"),
    option("mamba_d_state", "mamba2.state_size"),
    option("mamba_n_groups", "mamba2.num_groups", default=1),
    option("mamba_d_conv", "mamba2.conv_kernel", default=4),
    option("mamba_conv_bias", "mamba2.conv_bias", default=True),
    option("time_step_limit", "mamba2.time_step_limit", default=UNLIMITED, to_ours=limits),
)
"""Mamba-2 in the spelling of Bamba and those after it."""


SMALLEST_TIME_STEP = 1e-30
"""Stands for no limit: transformers' classes take the smallest time step as a limit, and its logarithm."""


def smallest_time_step(limit: Any) -> float:
    """The option for our limits of the time step."""
    low, high = limit
    if high != float("inf"):
        raise ConfigError(f"mamba2.time_step_limit={limit}: the config.json has no upper limit")
    return low or SMALLEST_TIME_STEP


TIME_STEP_MIN = option(
    "time_step_min",
    "mamba2.time_step_limit",
    default=1e-3,
    to_ours=lambda low: [low, float("inf")],
    to_theirs=smallest_time_step,
)


def attention_parts(prefix: str) -> tuple[Part, ...]:
    """Attention's tensors."""
    names = {"q": "q_bias", "k": "k_bias", "v": "v_bias", "o": "output_bias"}
    weights = [Part(f"{prefix}.{name}_proj.weight", (name,)) for name in names]
    return *weights, *(Part(f"{prefix}.{name}_proj.bias", (bias,)) for name, bias in names.items())


def mlp_parts(prefix: str) -> tuple[Part, ...]:
    """A feed-forward layer's tensors, with or without the gate."""
    names = {"gate": "gate_bias", "up": "up_bias", "down": "output_bias"}
    weights = [Part(f"{prefix}.{name}_proj.weight", (name,)) for name in names]
    return *weights, *(Part(f"{prefix}.{name}_proj.bias", (bias,)) for name, bias in names.items())


def mamba2_parts(prefix: str) -> tuple[Part, ...]:
    """Mamba-2's tensors: one projection into z, x, B, C and dt, one convolution over x, B and C."""
    projected = ("z", "x", "B", "C", "dt")
    return (
        Part(f"{prefix}.in_proj.weight", projected),
        Part(f"{prefix}.in_proj.bias", tuple(f"{name}_proj_bias" for name in projected)),
        Part(f"{prefix}.conv1d.weight", ("conv_x", "conv_B", "conv_C"), squeezed=1),
        Part(f"{prefix}.conv1d.bias", ("conv_x_bias", "conv_B_bias", "conv_C_bias")),
        Part(f"{prefix}.A_log", ("A_log",)),
        Part(f"{prefix}.D", ("D",)),
        Part(f"{prefix}.dt_bias", ("dt_bias",)),
        Part(f"{prefix}.norm.weight", ("norm",)),
        Part(f"{prefix}.out_proj.weight", ("out",)),
        Part(f"{prefix}.out_proj.bias", ("output_bias",)),
    )


def with_rope(config: TheirConfig) -> TheirConfig:
    """Older spellings of rotary positions as `rope_parameters`: rope_theta on its own, rope_scaling and its type."""
    rope = {
        key.removeprefix("rope_scaling."): value for key, value in config.items() if key.startswith("rope_scaling.")
    }
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in config:
            rope[key] = config[key]
    old = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_parameters")
    rest = {key: value for key, value in config.items() if key not in old and not key.startswith("rope_scaling.")}
    return {f"rope_parameters.{key}": value for key, value in rope.items()} | rest


DEFAULT_ROPE = {"rope_parameters.rope_type": "default"}
"""Rotary positions without any scaling."""


def needed(config: Mapping[str, Any], key: str) -> int:
    """A size that there is no default for."""
    if not isinstance(config.get(key), int):
        raise ConfigError(f"config.json: {key} is missing")
    return int(config[key])


def divisor(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A number by which others are divided. Raises ConfigError where it is missing or zero."""
    found = needed(config, key) if default is None else config.get(key, default)
    if not found:
        raise ConfigError(f"config.json: {key}={found} must not be 0, as others are divided by it")
    return int(found)


def with_head_dim(config: TheirConfig) -> TheirConfig:
    """The width of an attention head, where the hidden size decides it."""
    if config.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= config.keys():
        return config | {"head_dim": config["hidden_size"] // divisor(config, "num_attention_heads")}
    return config


def with_mamba_head_dim(config: TheirConfig) -> TheirConfig:
    """The width of a Mamba-2 head, where the inner size decides it."""
    if config.get("mamba_d_head", "auto") != "auto":
        return config
    inner = config.get("mamba_d_ssm") or int(config.get("mamba_expand", 2) * needed(config, "hidden_size"))
    return config | {"mamba_d_head": inner // divisor(config, "mamba_n_heads")}


def with_layers(config: TheirConfig, layer_type: str) -> TheirConfig:
    """All layers of one type."""
    return config | {LAYER_TYPES: [layer_type] * needed(config, "num_hidden_layers")}


def without_layers(config: TheirConfig) -> TheirConfig:
    """The inverse of `with_layers`."""
    rest = {key: value for key, value in config.items() if key != LAYER_TYPES}
    return rest | {"num_hidden_layers": len(config[LAYER_TYPES])}


def expansion(config: Mapping[str, Any], heads: str, head_dim: str) -> int:
    """How many times as wide as the model its Mamba-2 layers are. Raises ConfigError unless it is a whole number."""
    inner, hidden = config[heads] * config[head_dim], config["hidden_size"]
    if inner % hidden:
        raise ConfigError(
            f"mamba2: num_heads * head_dim = {inner} is no multiple of hidden_size={hidden}, which the config.json asks"
        )
    return int(inner // hidden)


def with_expansion(config: TheirConfig) -> TheirConfig:
    """Adds the width of Mamba-2, or where there is none, one head: transformers checks it all the same."""
    if "mamba_n_heads" not in config:
        return config | {"mamba_n_heads": 1, "mamba_d_head": "auto"}
    return config | {"mamba_expand": expansion(config, "mamba_n_heads", "mamba_d_head")}
