"""Granite 4: Mamba-2 or attention, then a gated feed-forward layer or experts with a shared one.

Every branch is scaled on its way to the residual.
"""

from dataclasses import replace

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, Part, TheirConfig, option, same
from eyas.layers.hf_moe import BALANCING
from eyas.layers.hf_tables import (
    ATTENTION,
    DEFAULT_ROPE,
    MAMBA,
    MODEL,
    OLD_LAYER_TYPES,
    ROPE,
    attention_parts,
    divisor,
    mamba2_parts,
    needed,
    with_expansion,
    with_head_dim,
    with_mamba_head_dim,
    with_rope,
)

POSITIONS = "position_embedding_type"
EXPERTS = "num_local_experts"
SHARED = "shared_intermediate_size"
BEFORE_EXPERTS = "{} before experts"
"""Types of layers in a model with experts."""


def complete(config: TheirConfig) -> TheirConfig:
    """Any other kind of positions than `rope` means none."""
    config = with_mamba_head_dim(with_head_dim(with_rope(config)))
    divisor(config, "logits_scaling", 1)
    if config.pop(POSITIONS, None) != "rope":
        config |= {ROPE.theirs: None}
    types = config.get(LAYER_TYPES) or config.pop("layers_block_type", None)
    types = types or ["linear_attention"] * needed(config, "num_hidden_layers")
    types = [OLD_LAYER_TYPES.get(name, name) for name in types]
    if config.get(EXPERTS):
        return config | {LAYER_TYPES: [BEFORE_EXPERTS.format(name) for name in types]}
    return {key: value for key, value in config.items() if key != EXPERTS} | {LAYER_TYPES: types}


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse; the softmax's scale is written out where it is the usual one. Refuses experts in some layers only,
    and experts without a shared one."""
    types = [name.removesuffix(BEFORE_EXPERTS.format("")) for name in config[LAYER_TYPES]]
    if EXPERTS in config and set(types) & set(config[LAYER_TYPES]):
        raise ConfigError("model.pattern: in granitemoehybrid either all layers have experts, or none has")
    if config[SHARED] is None:
        raise ConfigError("moe.shared_size=null cannot be expressed by granitemoehybrid, which has a shared expert")
    config = {EXPERTS: 0} | config | {LAYER_TYPES: types, "num_hidden_layers": len(types)}
    config = with_expansion(config)
    if "head_dim" in config:
        config |= {POSITIONS: None if config[ROPE.theirs] is None else "rope"}
        config["attention_multiplier"] = config["attention_multiplier"] or config["head_dim"] ** -0.5
    return {key: value for key, value in config.items() if key != ROPE.theirs or value is not None}


GRANITE_HYBRID = Family(
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    options=(
        *MODEL,
        *ATTENTION,
        *MAMBA,
        replace(ROPE, to_theirs=same),
        option("rms_norm_eps", "norm_epsilon", "mamba2.norm_epsilon", default=1e-6),
        option("mamba_proj_bias", "mamba2.projection_bias", "mamba2.output_bias", default=False),
        option("attention_multiplier", "attention.softmax_scale", default=1.0),
        option("embedding_multiplier", "embedding_multiplier", default=1.0),
        option(
            "logits_scaling",
            "lm_head_multiplier",
            default=1.0,
            to_ours=lambda divisor: 1 / divisor,
            to_theirs=lambda multiplier: 1 / multiplier,
        ),
        option(
            "residual_multiplier",
            "attention.output_multiplier",
            "mamba2.output_multiplier",
            "mlp.down_multiplier",
            "moe.output_multiplier",
            default=1.0,
        ),
        option(EXPERTS, "moe.num_experts"),
        option("num_experts_per_tok", "moe.top_k"),
        option("intermediate_size", "moe.intermediate_size"),
        option(SHARED, "mlp.intermediate_size", "moe.shared_size"),
    ),
    fixed={"hidden_act": "silu", "attention_dropout": 0.0, **DEFAULT_ROPE},
    unread=BALANCING | {
        "num_hidden_layers", "mamba_expand", "mamba_chunk_size", "init_method", "normalization_function",
    },
    layer_types={
        "linear_attention": (("mamba2",), ("mlp",)),
        "full_attention": (("attention",), ("mlp",)),
        BEFORE_EXPERTS.format("linear_attention"): (("mamba2",), ("moe",)),
        BEFORE_EXPERTS.format("full_attention"): (("attention",), ("moe",)),
    },
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "mamba2": mamba2_parts("mamba"),
        "mlp": (
            Part("shared_mlp.input_linear.weight", ("gate", "up")),
            Part("shared_mlp.output_linear.weight", ("down",)),
        ),
        "moe": (
            Part("block_sparse_moe.router.layer.weight", ("router",)),
            Part("block_sparse_moe.input_linear.weight", ("gate", "up"), dim=1),
            Part("block_sparse_moe.output_linear.weight", ("down",)),
            Part("shared_mlp.input_linear.weight", ("shared_gate", "shared_up")),
            Part("shared_mlp.output_linear.weight", ("shared_down",)),
        ),
    },
    complete=complete,
    finish=finish,
)  # fmt: skip
