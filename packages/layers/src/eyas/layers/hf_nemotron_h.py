"""Nemotron-H: Mamba-2, attention without positions, feed-forward layers without a gate, and experts, a block a layer.

The experts may work in a narrower space (Nemotron 3).
"""

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, Part, TheirConfig, option
from eyas.layers.hf_moe import moe_parts
from eyas.layers.hf_sigmoid import SIGMOID, selection_bias, with_routing, without_routing
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


def complete(config: TheirConfig) -> TheirConfig:
    """The types of the layers, from whichever spelling there is; an older name of the width of a head."""
    config = {"head_dim": config.pop("attention_head_dim", 128)} | config
    letters = config.pop("hybrid_override_pattern", None)
    types = config.pop("layers_block_type", None) or [LETTERS.get(letter, letter) for letter in letters or ""]
    types = [OLD_LAYER_TYPES.get(name, name) for name in types]
    check_biases(config, types)
    config = with_routing(config) if "moe" in types else config
    return config | {LAYER_TYPES: types}


def finish(config: TheirConfig) -> TheirConfig:
    """The types of the layers under their own name."""
    types = config.pop(LAYER_TYPES)
    check_biases(config, types)
    config = without_routing(config) if "moe" in types else config
    return config | {"layers_block_type": types}


def check_biases(config: TheirConfig, types: list[str]) -> None:
    """Raises ConfigError for biases, which theirs would have in shared experts too."""
    if config.get("mlp_bias") and "moe" in types:
        raise ConfigError("config.json: mlp_bias=True is not supported with layers of experts, which have no biases")


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
        activation("mlp_hidden_act", "mlp.activation", "moe.activation", default="relu2"),
        *SIGMOID,
        option("moe_latent_size", "moe.latent_size", default=None),
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
    unread=frozenset({
        "n_shared_experts", "moe_shared_expert_overlap", "norm_topk_prob", "output_router_logits",
        "num_hidden_layers", "chunk_size", "expand", "mamba_proj_bias", "mamba_ssm_cache_dtype", "use_mamba_kernels",
        "mtp_layers_block_type", "residual_in_fp32", "rescale_prenorm_residual", "time_step_limit", "time_step_max",
        "time_step_floor", "time_step_rank", "rms_norm_eps", "norm_eps", "rope_theta", "partial_rotary_factor",
        "rope_scaling",
        "rope_parameters.rope_theta", "rope_parameters.rope_type", "rope_parameters.partial_rotary_factor",
    }),
    ours={"attention.rope_base": None, "mlp.gated": False, "moe.gated": False, "moe.score": "sigmoid"},
    layer_types={
        "linear_attention": (("mamba2",),),
        "full_attention": (("attention",),),
        "mlp": (("mlp",),),
        "moe": (("moe",),),
    },
    names=Names(
        embedding="backbone.embeddings.weight",
        layers="backbone.layers",
        norms=("norm",),
        final_norm="backbone.norm_f.weight",
    ),
    mixers={
        "attention": attention_parts("mixer"),
        "mamba2": mamba2_parts("mixer"),
        "mlp": mlp_parts("mixer"),
        "moe": (
            *moe_parts("mixer", shared="shared_experts"),
            selection_bias("mixer"),
            Part("mixer.fc1_latent_proj.weight", ("latent_down",)),
            Part("mixer.fc2_latent_proj.weight", ("latent_up",)),
        ),
    },
    complete=complete,
    finish=finish,
)  # fmt: skip
