"""DeepSeek-V3: multi-head latent attention, then a feed-forward layer in the first layers and experts in the rest.

Its layer for multi-token prediction stands behind the others, as in the published weights; transformers knows of it and
leaves it out.
"""

from eyas.core.errors import ConfigError
from eyas.layers.hf import DEPTH_TYPE, LAYER_TYPES, DepthNames, Family, Names, Part, TheirConfig, option
from eyas.layers.hf_moe import moe_parts
from eyas.layers.hf_rope import rope_scaling, with_scaling, without_scaling
from eyas.layers.hf_sigmoid import SIGMOID, selection_bias, with_routing, without_routing
from eyas.layers.hf_tables import MODEL, activation, mlp_parts, needed, with_rope, without_layers

SHARED = "moe_shared_expert_intermediate_size"


def complete(config: TheirConfig) -> TheirConfig:
    """The types of the layers, and the size of the shared expert."""
    config = with_routing(with_scaling(with_rope(config)))
    heads, kv_heads = config.get("num_attention_heads"), config.pop("num_key_value_heads", None)
    if kv_heads not in (None, heads):
        raise ConfigError(f"config.json: num_key_value_heads={kv_heads} must be num_attention_heads={heads}")
    check_heads(config)
    shared, layers = config.pop("n_shared_experts", 1), needed(config, "num_hidden_layers")
    if not shared:
        raise ConfigError(f"config.json: n_shared_experts={shared} is not supported; it must be at least 1")
    dense = config.pop("first_k_dense_replace", 3)
    types = ["mlp" if layer < dense else "moe" for layer in range(layers + 1)]
    size = config.get("moe_intermediate_size", 0) * shared
    return config | {LAYER_TYPES: types[:-1], DEPTH_TYPE: types[-1], SHARED: size}


def check_heads(config: TheirConfig) -> None:
    """Raises ConfigError for widths of a head that are not those of its parts, which transformers would follow."""
    rotated = needed(config, "qk_rope_head_dim")
    sums = {"head_dim": rotated, "qk_head_dim": rotated + needed(config, "qk_nope_head_dim")}
    for key, value in sums.items():
        if (found := config.get(key)) not in (None, value):
            raise ConfigError(f"config.json: {key}={found} must be {value}, as the parts of a head are")


def finish(config: TheirConfig) -> TheirConfig:
    """The inverse; refuses a feed-forward layer behind experts, and a shared expert that is no multiple of another."""
    tail = config.pop(DEPTH_TYPE)
    types = config[LAYER_TYPES] + ([] if tail is None else [tail])
    dense = types.count("mlp")
    if "mlp" in types[dense:]:
        raise ConfigError(f"model.pattern: in deepseek_v3 the layers without experts come first, and here {types}")
    config = without_layers(without_scaling(config)) | {"first_k_dense_replace": dense}
    config["num_key_value_heads"] = config["num_attention_heads"]
    if dense == len(types):
        return config
    config = without_routing(config)
    shared, size = config.pop(SHARED), config["moe_intermediate_size"]
    if shared % size:
        raise ConfigError(f"moe.shared_size={shared} must be a multiple of intermediate_size={size} in a deepseek_v3")
    return config | {"n_shared_experts": shared // size}


DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    options=(
        *MODEL,
        option("num_attention_heads", "mla.num_heads"),
        option("q_lora_rank", "mla.q_lora_rank"),
        option("kv_lora_rank", "mla.kv_lora_rank"),
        option("qk_nope_head_dim", "mla.qk_nope_head_dim"),
        option("qk_rope_head_dim", "mla.qk_rope_head_dim"),
        option("v_head_dim", "mla.v_head_dim"),
        option("rope_parameters.rope_theta", "mla.rope_base", default=10_000.0),
        rope_scaling("mla"),
        option("rope_interleave", "mla.rope_interleave", default=True),
        option("attention_bias", "mla.down_bias", "mla.output_bias", default=False),
        option("rms_norm_eps", "norm_epsilon", default=1e-6),
        option("intermediate_size", "mlp.intermediate_size"),
        activation("hidden_act", "mlp.activation", "moe.activation", default="silu"),
        *SIGMOID,
    ),
    fixed={
        "attention_dropout": 0.0,
        "pretraining_tp": 1,
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    unread=frozenset({
        "num_hidden_layers", "num_nextn_predict_layers", "head_dim", "qk_head_dim", "output_router_logits", "ep_size",
        "aux_loss_alpha", "seq_aux",
    }),
    ours={"moe.score": "sigmoid"},
    layer_types={"mlp": (("mla",), ("mlp",)), "moe": (("mla",), ("moe",))},
    names=Names(norms=("input_layernorm", "post_attention_layernorm"), final_norm="model.norm.weight"),
    mixers={
        "mla": (
            Part("self_attn.q_proj.weight", ("q",), given=(("q_down", False),)),
            Part("self_attn.q_a_proj.weight", ("q_down",)),
            Part("self_attn.q_a_proj.bias", ("q_down_bias",)),
            Part("self_attn.q_a_layernorm.weight", ("q_norm",)),
            Part("self_attn.q_b_proj.weight", ("q",), given=(("q_down", True),)),
            Part("self_attn.kv_a_proj_with_mqa.weight", ("kv_down", "k_rope")),
            Part("self_attn.kv_a_proj_with_mqa.bias", ("kv_down_bias", "k_rope_bias")),
            Part("self_attn.kv_a_layernorm.weight", ("kv_norm",)),
            Part("self_attn.kv_b_proj.weight", ("k_up", "v_up"), dim=1, groups="num_heads"),
            Part("self_attn.o_proj.weight", ("o",)),
            Part("self_attn.o_proj.bias", ("output_bias",)),
        ),
        "mlp": mlp_parts("mlp"),
        "moe": (*moe_parts("mlp", shared="shared_experts"), selection_bias("mlp")),
    },
    depths=DepthNames(
        option="num_nextn_predict_layers",
        embedding_norm="enorm",
        hidden_norm="hnorm",
        join="eh_proj",
        final_norm="shared_head.norm",
        embedding="embed_tokens",
        head="shared_head.head",
    ),
    complete=complete,
    finish=finish,
)  # fmt: skip
