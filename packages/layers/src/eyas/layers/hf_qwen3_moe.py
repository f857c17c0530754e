"""Qwen3 with experts: attention with normed queries and keys, then experts or, in some layers, a feed-forward layer."""

from eyas.layers.hf import Family, Names, Part, TheirConfig, option
from eyas.layers.hf_moe import BALANCING, EXPERTS, SOFTMAX, moe_parts, with_places, without_places
from eyas.layers.hf_rope import rope_scaling, with_scaling, without_scaling
from eyas.layers.hf_tables import (
    ATTENTION,
    MODEL,
    ROPE,
    attention_parts,
    mlp_parts,
    with_head_dim,
    with_rope,
)


def complete(config: TheirConfig) -> TheirConfig:
    """The window where it is in use; an older name of the number of experts."""
    config = with_places(with_head_dim(with_scaling(with_rope(config))))
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    used = config.pop("use_sliding_window", False)
    return config | {"sliding_window": config.get("sliding_window") if used else None}


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse."""
    return without_places(without_scaling(config)) | {"use_sliding_window": config.get("sliding_window") is not None}


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    options=(
        *MODEL,
        *ATTENTION,
        ROPE,
        rope_scaling("attention"),
        option("sliding_window", "attention.window", default=None),
        option("rms_norm_eps", "norm_epsilon", "attention.norm_epsilon", default=1e-6),
        option("num_experts", "moe.num_experts"),
        *EXPERTS,
        SOFTMAX,
    ),
    fixed={"attention_dropout": 0.0},
    unread=BALANCING | {"num_hidden_layers", "max_window_layers"},
    ours={"attention.qk_norm": True},
    layer_types={"moe": (("attention",), ("moe",)), "mlp": (("attention",), ("mlp",))},
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={
        "attention": (
            *attention_parts("self_attn"),
            Part("self_attn.q_norm.weight", ("q_norm",)),
            Part("self_attn.k_norm.weight", ("k_norm",)),
        ),
        "moe": moe_parts("mlp"),
        "mlp": mlp_parts("mlp"),
    },
    complete=complete,
    finish=finish,
)
