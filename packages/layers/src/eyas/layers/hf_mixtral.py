"""Mixtral: attention, then experts that share a token by the softmax of the chosen."""

from dataclasses import replace

from eyas.layers.hf import Family, Names, TheirConfig, option
from eyas.layers.hf_moe import BALANCING, moe_parts
from eyas.layers.hf_rope import rope_scaling, with_scaling, without_scaling
from eyas.layers.hf_tables import (
    ATTENTION,
    MODEL,
    ROPE,
    activation,
    attention_parts,
    with_head_dim,
    with_layers,
    with_rope,
    without_layers,
)


def complete(config: TheirConfig) -> TheirConfig:
    """All layers are alike."""
    return with_layers(with_head_dim(with_scaling(with_rope(config))), "moe")


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    options=(
        *MODEL,
        *ATTENTION[:-1],
        replace(ROPE, default=1_000_000.0),
        rope_scaling("attention"),
        option("sliding_window", "attention.window", default=None),
        option("rms_norm_eps", "norm_epsilon", default=1e-5),
        option("num_local_experts", "moe.num_experts"),
        option("num_experts_per_tok", "moe.top_k"),
        option("intermediate_size", "moe.intermediate_size"),
        activation("hidden_act", "moe.activation", default="silu"),
    ),
    fixed={"attention_dropout": 0.0, "router_jitter_noise": 0.0},
    unread=BALANCING | {"num_hidden_layers"},
    layer_types={"moe": (("attention",), ("moe",))},
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "moe": moe_parts("block_sparse_moe", experts={"gate": "w1", "up": "w3", "down": "w2"}),
    },
    complete=complete,
    finish=lambda config: without_layers(without_scaling(config)),
)
