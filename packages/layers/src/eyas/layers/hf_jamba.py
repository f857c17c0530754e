"""Jamba: Mamba or attention without positions, then a feed-forward layer or a mixture, each every few layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, Part, TheirConfig, option
from eyas.layers.hf_tables import ATTENTION, MODEL, attention_parts, mlp_parts, needed, with_head_dim

INNER = "mamba_inner_size"
"""The width of Mamba, which config.json gives as a multiple of hidden_size."""
MIXERS = {"attention": "attention", "mamba": "mamba1"}
FEED_FORWARD = {"dense": "mlp", "experts": "moe"}


def complete(config: TheirConfig) -> TheirConfig:
    """Periods and offsets become layer types; one expert is none."""
    rank = config.get("mamba_dt_rank", "auto")
    hidden, layers = needed(config, "hidden_size"), needed(config, "num_hidden_layers")
    attention = every("attn", config, 8, 4)
    experts = every("expert", config, 2, 1) if config.get("num_experts", 16) > 1 else range(0)
    types = [
        f"{'attention' if i in attention else 'mamba'}_{'experts' if i in experts else 'dense'}" for i in range(layers)
    ]
    return with_head_dim(config) | {
        "mamba_dt_rank": math.ceil(hidden / 16) if rank == "auto" else rank,
        INNER: config.get("mamba_expand", 2) * hidden,
        LAYER_TYPES: types,
    }


def every(name: str, config: TheirConfig, period: int, offset: int) -> range:
    """Indices of the layers of one kind, given the beginning of the options' names, and transformers' defaults."""
    period, offset = config.get(f"{name}_layer_period", period), config.get(f"{name}_layer_offset", offset)
    if not 0 <= offset < period:
        raise ConfigError(f"config.json: {name}_layer_offset={offset} must be below {name}_layer_period={period}")
    return range(offset, needed(config, "num_hidden_layers"), period)


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse. Raises ConfigError for layers at irregular distances and for widths that are no multiples."""
    types = config.pop(LAYER_TYPES)
    config |= {"num_hidden_layers": len(types), "num_experts": config.get("num_experts", 1)}
    for name, kind, part in (("attn", "attention", 0), ("expert", "experts", 1)):
        places = [index for index, layer in enumerate(types) if layer.split("_")[part] == kind]
        config[f"{name}_layer_period"], config[f"{name}_layer_offset"] = rhythm(places, len(types), kind)
    if INNER in config:
        config["mamba_expand"], rest = divmod(config.pop(INNER), config["hidden_size"])
        if rest:
            raise ConfigError(f"mamba1.inner_size must be a multiple of hidden_size={config['hidden_size']} in a jamba")
    return config


def rhythm(places: Sequence[int], layers: int, kind: str) -> tuple[int, int]:
    """Period and offset of the layers at these places; for none, a period that the model does not reach."""
    offset = places[0] if places else layers
    period = places[1] - offset if len(places) > 1 else max(layers, offset + 1)
    if list(range(offset, layers, period)) != list(places) or offset >= period:
        raise ConfigError(f"model.pattern: {kind} in layers {list(places)} of {layers} has no period, as a jamba asks")
    return period, offset


def mamba1_parts(prefix: str) -> tuple[Part, ...]:
    """Mamba's tensors: one projection into x and z, one out of x into what the time step is read from, B and C."""
    return (
        Part(f"{prefix}.in_proj.weight", ("x", "z")),
        Part(f"{prefix}.in_proj.bias", ("x_bias", "z_bias")),
        Part(f"{prefix}.conv1d.weight", ("conv",), squeezed=1),
        Part(f"{prefix}.conv1d.bias", ("conv_bias",)),
        Part(f"{prefix}.x_proj.weight", ("dt", "B", "C")),
        Part(f"{prefix}.dt_layernorm.weight", ("dt_norm",)),
        Part(f"{prefix}.b_layernorm.weight", ("B_norm",)),
        Part(f"{prefix}.c_layernorm.weight", ("C_norm",)),
        Part(f"{prefix}.dt_proj.weight", ("dt_up",)),
        Part(f"{prefix}.dt_proj.bias", ("dt_bias",)),
        Part(f"{prefix}.A_log", ("A_log",)),
        Part(f"{prefix}.D", ("D",)),
        Part(f"{prefix}.out_proj.weight", ("out",)),
        Part(f"{prefix}.out_proj.bias", ("output_bias",)),
    )


JAMBA = Family(
    model_type="jamba",
    architecture="JambaForCausalLM",
    options=(
        *MODEL,
        *ATTENTION[:-1],
        option("rms_norm_eps", "norm_epsilon", "mamba1.norm_epsilon", default=1e-6),
        option(INNER, "mamba1.inner_size"),
        option("mamba_dt_rank", "mamba1.dt_rank"),
        option("mamba_d_state", "mamba1.state_size", default=16),
        option("mamba_d_conv", "mamba1.conv_kernel", default=4),
        option("mamba_conv_bias", "mamba1.conv_bias", default=True),
        option("mamba_proj_bias", "mamba1.projection_bias", "mamba1.output_bias", default=False),
        option("intermediate_size", "mlp.intermediate_size", "moe.intermediate_size"),
        option("num_experts", "moe.num_experts", default=16),
        option("num_experts_per_tok", "moe.top_k", default=2),
    ),
    fixed={"hidden_act": "silu", "attention_dropout": 0.0},
    unread=frozenset({
        "num_hidden_layers", "mamba_expand", "attn_layer_period", "attn_layer_offset", "expert_layer_period",
        "expert_layer_offset", "output_router_logits", "router_aux_loss_coef", "use_mamba_kernels", "use_mambapy",
        "use_associative_scan", "calc_logits_for_entire_prompt", "mamba_inner_layernorms", "sliding_window",
        "n_ctx",
    }),
    ours={"attention.rope_base": None, "mamba1.inner_norms": True, "moe.score": "softmax"},
    layer_types={
        f"{mixer}_{dense}": ((MIXERS[mixer],), (FEED_FORWARD[dense],)) for mixer in MIXERS for dense in FEED_FORWARD
    },
    names=Names(norms=("input_layernorm", "pre_ff_layernorm"), final_norm="model.final_layernorm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "mamba1": mamba1_parts("mamba"),
        "mlp": mlp_parts("feed_forward"),
        "moe": (
            Part("feed_forward.router.weight", ("router",)),
            *(Part(f"feed_forward.experts.{{}}.{name}_proj.weight", (name,)) for name in ("gate", "up", "down")),
        ),
    },
    complete=complete,
    finish=finish,
)  # fmt: skip
