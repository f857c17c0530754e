"""Bamba: Mamba-2 or attention, then a gated feed-forward layer; half of an attention head's channels are rotated."""

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, TheirConfig, option
from eyas.layers.hf_tables import (
    ATTENTION,
    DEFAULT_ROPE,
    MAMBA,
    MODEL,
    ROPE,
    attention_parts,
    mamba2_parts,
    mlp_parts,
    needed,
    with_expansion,
    with_head_dim,
    with_mamba_head_dim,
    with_rope,
)

ROTARY_DIM = "rotary_dim"
ATTENTION_LAYERS = "attn_layer_indices"


def complete(config: TheirConfig) -> TheirConfig:
    """Transformers rotates half of a head's channels, whatever the config.json says; published ones say the same."""
    config = with_mamba_head_dim(with_head_dim(with_rope(config)))
    rotated, half = config.pop("attn_rotary_emb", None), config.get("head_dim", 0) // 2
    if rotated not in (None, half):
        raise ConfigError(f"config.json: attn_rotary_emb={rotated} is not supported; it must be {half}, half of a head")
    attention = config.pop(ATTENTION_LAYERS, None) or []
    types = [
        "full_attention" if i in attention else "linear_attention" for i in range(needed(config, "num_hidden_layers"))
    ]
    return config | {LAYER_TYPES: types, ROTARY_DIM: half}


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse; refuses another share of rotated channels."""
    rotated, head_dim = config.pop(ROTARY_DIM, None), config.get("head_dim")
    if head_dim is not None and rotated != head_dim // 2:
        raise ConfigError(f"attention.rotary_dim={rotated}: bamba rotates half of head_dim={head_dim}")
    types = config.pop(LAYER_TYPES)
    config |= {"num_hidden_layers": len(types)}
    config |= {ATTENTION_LAYERS: [index for index, name in enumerate(types) if name == "full_attention"]}
    return with_expansion(config)


BAMBA = Family(
    model_type="bamba",
    architecture="BambaForCausalLM",
    options=(
        *MODEL,
        *ATTENTION,
        *MAMBA,
        ROPE,
        option(ROTARY_DIM, "attention.rotary_dim"),
        option("rms_norm_eps", "norm_epsilon", "mamba2.norm_epsilon", default=1e-5),
        option("mamba_proj_bias", "mamba2.projection_bias", "mamba2.output_bias", default=False),
        option("intermediate_size", "mlp.intermediate_size"),
        option("mlp_bias", "mlp.bias", default=False),
    ),
    fixed={
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "z_loss_coefficient": 0.0,
        "rope_parameters.partial_rotary_factor": 0.5,
        **DEFAULT_ROPE,
    },
    unread=frozenset({"num_hidden_layers", "mamba_expand", "mamba_chunk_size"}),
    layer_types={"linear_attention": (("mamba2",), ("mlp",)), "full_attention": (("attention",), ("mlp",))},
    names=Names(norms=("input_layernorm", "pre_ff_layernorm"), final_norm="model.final_layernorm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "mamba2": mamba2_parts("mamba"),
        "mlp": mlp_parts("feed_forward"),
    },
    complete=complete,
    finish=finish,
)
