"""Zamba2: Mamba-2 throughout; in hybrid layers one of a few shared transformers in front (see `hf_zamba2_blocks`)."""

from __future__ import annotations

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Family, Names, Part, SharedBlocks, TheirConfig, option
from eyas.layers.hf_tables import (
    ATTENTION,
    DEFAULT_ROPE,
    MODEL,
    OLD_LAYER_TYPES,
    TIME_STEP_MIN,
    activation,
    attention_parts,
    divisor,
    expansion,
    mamba2_parts,
    needed,
    with_rope,
)
from eyas.layers.hf_zamba2_blocks import HYBRID, arrange, options, sections

LIMIT = "time_step_limit"
SCALE = "attention_scale"
"""Scale of the softmax, which transformers derives."""

MEMORY_ROPE = option("rope_parameters.rope_theta", "attention.rope_base", default=10_000.0)
"""The base of rotary positions, which the shared transformers may do without."""


def complete(config: TheirConfig) -> TheirConfig:
    """Adds what transformers derives: it reads the widths of heads from no config.json. Files of transformers 4 name a
    limit of the time steps that is none."""
    config = with_rope(config)
    if config.get(LIMIT, "") is None:
        del config[LIMIT]
    types = [OLD_LAYER_TYPES.get(name, name) for name in config.pop("layers_block_type", None) or []]
    if not types:
        raise ConfigError("config.json: layers_block_type is missing")
    hidden = needed(config, "hidden_size")
    inner = int(config.get("mamba_expand", 2) * hidden)
    if not config.get("use_mem_rope", False):
        config |= {MEMORY_ROPE.theirs: None}
    return config | {
        **attention_sizes(hidden, divisor(config, "num_attention_heads", 32)),
        "mamba_headdim": inner // divisor(config, "n_mamba_heads", 8),
        "intermediate_size": config.get("intermediate_size") or 4 * hidden,
        LAYER_TYPES: types,
    }


def attention_sizes(hidden: int, heads: int) -> TheirConfig:
    """Attention reads the stream beside the embeddings; its heads are as wide together, half as wide for the scale."""
    width = 2 * hidden // heads
    return {"attention_hidden_size": 2 * hidden, "attention_head_dim": width, SCALE: (width / 2) ** -0.5}


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse. Raises ConfigError for a model in which transformers would derive something else."""
    types = config.pop(LAYER_TYPES)
    if HYBRID in types:
        rope = config[MEMORY_ROPE.theirs]
        config = {key: value for key, value in config.items() if key != MEMORY_ROPE.theirs or rope is not None}
        config["use_mem_rope"] = rope is not None
        for key, value in attention_sizes(config["hidden_size"], config["num_attention_heads"]).items():
            if config[key] != value:
                raise ConfigError(f"{key}={config[key]} of attention has to be {value} in a zamba2 of this width")
        del config[SCALE]
    expand = expansion(config, "n_mamba_heads", "mamba_headdim")
    return config | {"mamba_expand": expand, "num_hidden_layers": len(types), "layers_block_type": types}


ZAMBA2 = Family(
    model_type="zamba2",
    architecture="Zamba2ForCausalLM",
    options=(
        *MODEL[:-1],
        *ATTENTION[:2],
        MEMORY_ROPE,
        option("attention_hidden_size", "attention.input_size"),
        option("attention_head_dim", "attention.head_dim"),
        option(SCALE, "attention.softmax_scale"),
        option("rms_norm_eps", "norm_epsilon", default=1e-5),
        option("n_mamba_heads", "mamba2.num_heads", default=8),
        option("mamba_headdim", "mamba2.head_dim"),
        option("mamba_d_state", "mamba2.state_size", default=64),
        option("mamba_ngroups", "mamba2.num_groups", default=1),
        option("mamba_d_conv", "mamba2.conv_kernel", default=4),
        option("add_bias_linear", "mamba2.projection_bias", "mamba2.output_bias", "mlp.bias", default=False),
        TIME_STEP_MIN,
        option("intermediate_size", "mlp.intermediate_size"),
        activation("hidden_act", "mlp.activation", default="gelu"),
        option("num_mem_blocks"),
        option("adapter_rank"),
        option("use_shared_attention_adapter"),
    ),
    fixed={
        "tie_word_embeddings": True,  # transformers shares no blocks in a model with a head of its own
        "attention_dropout": 0.0,
        "use_long_context": False,
        **DEFAULT_ROPE,
    },
    unread=frozenset({
        "num_hidden_layers", "mamba_expand", "chunk_size", "use_mamba_kernels", "use_conv_bias", "use_mem_eff_path",
        "time_step_max", "time_step_floor", "kv_channels", "num_query_groups", "hybrid_layer_ids", "use_mem_rope",
        "use_shared_mlp_adapter",
    }),
    ours={"tie_embeddings": True, "mamba2.norm_epsilon": 1e-5},
    layer_types={"linear_attention": (("mamba2",),), HYBRID: (("attention",), ("mlp",), ("mamba2",))},
    names=Names(norms=(), final_norm="model.final_layernorm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "mamba2": mamba2_parts("mamba"),
        "mlp": (
            Part("feed_forward.gate_up_proj.weight", ("gate", "up")),
            Part("feed_forward.gate_up_proj.bias", ("gate_bias", "up_bias")),
            Part("feed_forward.down_proj.weight", ("down",)),
            Part("feed_forward.down_proj.bias", ("output_bias",)),
        ),
    },
    shared=SharedBlocks(arrange, options, sections),
    complete=complete,
    finish=finish,
)  # fmt: skip
