"""Nemotron-H: Mamba-2, attention without positions, and feed-forward layers without a gate, a block a layer."""

from eyas.layers.hf import LAYER_TYPES, Family, Names, TheirConfig, option
from eyas.layers.hf_tables import (
    ATTENTION,
    MODEL,
    OLD_LAYER_TYPES,
    TIME_STEP_MIN,
    activation,
    attention_parts,
    mamba2_parts,
    mlp_parts,
)

LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
EXPERTS = frozenset({
    "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
    "moe_latent_size", "moe_shared_expert_overlap", "num_experts_per_tok", "routed_scaling_factor", "n_group",
    "topk_group", "norm_topk_prob", "output_router_logits",
})  # fmt: skip
"""Options of layers that are refused as long as they are not supported."""


def complete(config: TheirConfig) -> TheirConfig:
    """The types of the layers, from whichever spelling there is; an older name of the width of a head."""
    config = {"head_dim": config.pop("attention_head_dim", 128)} | config
    letters = config.pop("hybrid_override_pattern", None)
    types = config.pop("layers_block_type", None) or [LETTERS.get(letter, letter) for letter in letters or ""]
    return config | {LAYER_TYPES: [OLD_LAYER_TYPES.get(name, name) for name in types]}


def finish(config: TheirConfig) -> TheirConfig:
    """The types of the layers under their own name."""
    return config | {"layers_block_type": config.pop(LAYER_TYPES)}


NEMOTRON_H = Family(
    model_type="nemotron_h",
    architecture="NemotronHForCausalLM",
    options=(
        *MODEL[:-1],
        *ATTENTION[:-1],
        option("layer_norm_epsilon", "norm_epsilon", "mamba2.norm_epsilon", default=1e-5),
        option("mamba_num_heads", "mamba2.num_heads"),
        option("mamba_head_dim", "mamba2.head_dim"),
        option("ssm_state_size", "mamba2.state_size"),
        option("n_groups", "mamba2.num_groups", default=8),
        option("conv_kernel", "mamba2.conv_kernel", default=4),
        option("use_conv_bias", "mamba2.conv_bias", default=True),
        option("use_bias", "mamba2.projection_bias", "mamba2.output_bias", default=False),
        TIME_STEP_MIN,
        option("intermediate_size", "mlp.intermediate_size"),
        option("mlp_bias", "mlp.bias", default=False),
        activation("mlp_hidden_act", "mlp.activation", default="relu2"),
    ),
    fixed={
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "sliding_window": None,
        "mamba_hidden_act": "silu",
        "num_nextn_predict_layers": 0,
    },
    unread=EXPERTS | {
        "num_hidden_layers", "chunk_size", "expand", "mamba_proj_bias", "mamba_ssm_cache_dtype", "use_mamba_kernels",
        "mtp_layers_block_type", "residual_in_fp32", "rescale_prenorm_residual", "time_step_limit", "time_step_max",
        "time_step_floor", "rms_norm_eps", "norm_eps", "rope_theta", "partial_rotary_factor", "rope_scaling",
        "rope_parameters.rope_theta", "rope_parameters.rope_type", "rope_parameters.partial_rotary_factor",
    },
    ours={"attention.rope_base": None, "mlp.gated": False},
    layer_types={
        "linear_attention": (("mamba2",),),
        "full_attention": (("attention",),),
        "mlp": (("mlp",),),
    },
    names=Names(
        embedding="backbone.embeddings.weight",
        layers="backbone.layers",
        norms=("norm",),
        final_norm="backbone.norm_f.weight",
    ),
    mixers={"attention": attention_parts("mixer"), "mamba2": mamba2_parts("mixer"), "mlp": mlp_parts("mixer")},
    complete=complete,
    finish=finish,
)  # fmt: skip
