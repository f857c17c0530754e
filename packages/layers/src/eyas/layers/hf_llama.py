"""Llama: attention, then a gated feed-forward layer."""

from eyas.core.errors import ConfigError
from eyas.layers.hf import Family, Names, TheirConfig, option
from eyas.layers.hf_rope import rope_scaling, with_scaling, without_scaling
from eyas.layers.hf_tables import (
    ATTENTION,
    MODEL,
    ROPE,
    activation,
    attention_parts,
    mlp_parts,
    with_head_dim,
    with_layers,
    with_rope,
    without_layers,
)


def complete(config: TheirConfig) -> TheirConfig:
    """All layers are alike."""
    return with_layers(with_head_dim(with_scaling(with_rope(config))), "full_attention")


def finish(config: TheirConfig) -> TheirConfig:
    """Transformers refuses a hidden size that the heads do not divide, although they need not."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        raise ConfigError(f"hidden_size={hidden} must be a multiple of attention.num_heads={heads} in a llama")
    return without_layers(without_scaling(config))


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    options=(
        *MODEL,
        *ATTENTION,
        ROPE,
        rope_scaling("attention"),
        option("rms_norm_eps", "norm_epsilon", default=1e-6),
        option("intermediate_size", "mlp.intermediate_size"),
        option("mlp_bias", "mlp.bias", default=False),
        activation("hidden_act", "mlp.activation", default="silu"),
    ),
    fixed={"attention_dropout": 0.0, "pretraining_tp": 1},
    unread=frozenset({"num_hidden_layers"}),
    layer_types={"full_attention": (("attention",), ("mlp",))},
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={"attention": attention_parts("self_attn"), "mlp": mlp_parts("mlp")},
    complete=complete,
    finish=finish,
)
