"""Falcon-H1: attention and Mamba-2 side by side, then a feed-forward layer; multipliers everywhere."""

from collections.abc import Sequence

from eyas.layers.hf import Family, Names, TheirConfig, option
from eyas.layers.hf_tables import (
    ATTENTION,
    DEFAULT_ROPE,
    MAMBA,
    MODEL,
    ROPE,
    attention_parts,
    mamba2_parts,
    mlp_parts,
    with_head_dim,
    with_layers,
    with_mamba_head_dim,
    with_rope,
    without_layers,
)

PROJECTIONS = 5
"""Of Mamba-2, each with a multiplier: z, x, B, C, dt."""
GATE, DOWN = "mlp_multipliers[0]", "mlp_multipliers[1]"


def multipliers(found: Sequence[float] | None) -> list[float]:
    """Ones where the file has null, as it has for transformers."""
    return [1.0] * PROJECTIONS if found is None else list(found)


def complete(config: TheirConfig) -> TheirConfig:
    """The pair of multipliers of the feed-forward layer becomes two options."""
    config = with_layers(with_mamba_head_dim(with_head_dim(with_rope(config))), "hybrid")
    gate, down = config.pop("mlp_multipliers", None) or (1.0, 1.0)
    return config | {GATE: gate, DOWN: down}


def finish(config: TheirConfig) -> TheirConfig:
    """Adds the inner size, which is free of the hidden size."""
    config = without_layers(config)
    inner = config["mamba_n_heads"] * config["mamba_d_head"]
    return config | {"mlp_multipliers": [config.pop(GATE), config.pop(DOWN)], "mamba_d_ssm": inner}


FALCON_H1 = Family(
    model_type="falcon_h1",
    architecture="FalconH1ForCausalLM",
    options=(
        *MODEL,
        *ATTENTION,
        *MAMBA,
        ROPE,
        option("rms_norm_eps", "norm_epsilon", "mamba2.norm_epsilon", default=1e-5),
        option("embedding_multiplier", "embedding_multiplier", default=1.0),
        option("lm_head_multiplier", "lm_head_multiplier", default=1.0),
        option("mamba_rms_norm", "mamba2.gated_norm", default=False),
        option("mamba_norm_before_gate", "mamba2.norm_before_gate", default=True),
        option("mamba_proj_bias", "mamba2.projection_bias", default=False),
        option("projectors_bias", "mamba2.output_bias", default=False),
        option("ssm_in_multiplier", "mamba2.input_multiplier", default=1.0),
        option("ssm_multipliers", "mamba2.multipliers", default=None, to_ours=multipliers),
        option("ssm_out_multiplier", "mamba2.output_multiplier", default=1.0),
        option("attention_in_multiplier", "attention.input_multiplier", default=1.0),
        option("key_multiplier", "attention.key_multiplier", default=1.0),
        option("attention_out_multiplier", "attention.output_multiplier", default=1.0),
        option("intermediate_size", "mlp.intermediate_size"),
        option("mlp_bias", "mlp.bias", default=False),
        option(GATE, "mlp.gate_multiplier"),
        option(DOWN, "mlp.down_multiplier"),
    ),
    fixed={"hidden_act": "silu", "attention_dropout": 0.0, "attn_layer_indices": None, **DEFAULT_ROPE},
    unread=frozenset({
        "num_hidden_layers", "mamba_d_ssm", "mamba_expand", "mamba_chunk_size", "mamba_use_mlp", "mlp_expansion_factor",
        "time_step_rank", "time_step_min", "time_step_max", "time_step_floor",
    }),
    layer_types={"hybrid": (("mamba2", "attention"), ("mlp",))},
    names=Names(norms=("input_layernorm", "pre_ff_layernorm"), final_norm="model.final_layernorm.weight"),
    mixers={
        "attention": attention_parts("self_attn"),
        "mamba2": mamba2_parts("mamba"),
        "mlp": mlp_parts("feed_forward"),
    },
    complete=complete,
    finish=finish,
)  # fmt: skip
