"""Qwen2 with experts: attention, then experts and a gated shared one; in some layers a feed-forward layer instead."""

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, Part, TheirConfig, option
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
    """Their own types of layers tell windows apart, which are refused."""
    for name in config.get(LAYER_TYPES) or []:
        if name != "full_attention":
            raise ConfigError(f"config.json: layer_types has {name!r}; qwen2_moe is read with full attention alone")
    return with_places(with_head_dim(with_scaling(with_rope(config))))


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    options=(
        *MODEL,
        *ATTENTION[:-1],
        option("qkv_bias", "attention.qkv_bias", default=True),
        ROPE,
        rope_scaling("attention"),
        option("rms_norm_eps", "norm_epsilon", default=1e-6),
        option("num_experts", "moe.num_experts"),
        option("shared_expert_intermediate_size", "moe.shared_size"),
        *EXPERTS,
        SOFTMAX,
    ),
    fixed={"attention_dropout": 0.0, "use_sliding_window": False},
    unread=BALANCING | {"num_hidden_layers", "max_window_layers", "sliding_window"},
    ours={"moe.shared_output_gate": True},
    layer_types={"moe": (("attention",), ("moe",)), "mlp": (("attention",), ("mlp",))},
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "moe": (
            *moe_parts("mlp", shared="shared_expert"),
            Part("mlp.shared_expert_gate.weight", ("shared_output_gate",)),
        ),
        "mlp": mlp_parts("mlp"),
    },
    complete=complete,
    finish=lambda config: without_places(without_scaling(config)),
)
