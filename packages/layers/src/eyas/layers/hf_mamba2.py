"""Mamba-2 alone, a block a layer."""

from eyas.core.errors import ConfigError
from eyas.layers.hf import Family, Names, TheirConfig, option
from eyas.layers.hf_tables import MODEL, UNLIMITED, expansion, limits, mamba2_parts, with_layers, without_layers


def complete(config: TheirConfig) -> TheirConfig:
    """All layers are alike, and all have the norm that config.json files of transformers 4 name."""
    if not config.pop("rms_norm", True):
        raise ConfigError(
            "config.json: rms_norm=False is not supported; transformers computes the norm whatever it says"
        )
    return with_layers(config, "linear_attention")


def finish(config: TheirConfig) -> TheirConfig:
    """Adds how many times as wide as the model its layers are."""
    return without_layers(config) | {"expand": expansion(config, "num_heads", "head_dim")}


MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    options=(
        *MODEL,
        option("layer_norm_epsilon", "norm_epsilon", "mamba2.norm_epsilon", default=1e-5),
        option("num_heads", "mamba2.num_heads"),
        option("head_dim", "mamba2.head_dim"),
        option("state_size", "mamba2.state_size"),
        option("n_groups", "mamba2.num_groups", default=8),
        option("conv_kernel", "mamba2.conv_kernel", default=4),
        option("use_conv_bias", "mamba2.conv_bias", default=True),
        option("use_bias", "mamba2.projection_bias", "mamba2.output_bias", default=False),
        option("time_step_limit", "mamba2.time_step_limit", default=UNLIMITED, to_ours=limits),
    ),
    fixed={"hidden_act": "silu"},
    unread=frozenset({
        "num_hidden_layers", "expand", "chunk_size", "residual_in_fp32", "rescale_prenorm_residual",
        "time_step_rank", "time_step_min", "time_step_max", "time_step_floor", "intermediate_size",
        "norm_before_gate", "time_step_init_scheme", "time_step_scale",
    }),
    layer_types={"linear_attention": (("mamba2",),)},
    names=Names(
        embedding="backbone.embeddings.weight",
        layers="backbone.layers",
        norms=("norm",),
        final_norm="backbone.norm_f.weight",
    ),
    mixers={"mamba2": mamba2_parts("mixer")},
    complete=complete,
    finish=finish,
)  # fmt: skip
