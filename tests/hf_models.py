"""Small models of transformers' own classes, drawn over each family's options: the oracle of import and export."""

import torch
import transformers
from hypothesis import strategies as st

VOCABULARY = 61


@st.composite
def sizes(draw):
    """Options that all families share, by their usual names."""
    kv_heads = draw(st.sampled_from([1, 2]))
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": draw(st.sampled_from([16, 32])),
        "num_attention_heads": kv_heads * draw(st.sampled_from([1, 2])),
        "num_key_value_heads": kv_heads,
        "initializer_range": 0.1,
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


@st.composite
def mamba(draw, hidden):
    """Options of Mamba-2 in the spelling of Bamba and Falcon-H1, twice as wide as the model."""
    return {
        "mamba_n_heads": (heads := draw(st.sampled_from([4, 8]))),
        "mamba_d_head": 2 * hidden // heads,
        "mamba_n_groups": draw(st.sampled_from([1, 2])),
        "mamba_d_state": 12,
        "mamba_d_conv": draw(st.sampled_from([3, 4])),
        "mamba_conv_bias": draw(st.booleans()),
        "mamba_proj_bias": draw(st.booleans()),
        "mamba_chunk_size": 8,
        "time_step_limit": draw(st.sampled_from([(0.0, float("inf")), (0.0, 0.2)])),
    }


multiplier = st.floats(0.5, 1.5)


@st.composite
def falcon_h1(draw):
    common = draw(sizes())
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 1), (2, 2), (4, 2), (6, 2), (4, 4)]))
    config = transformers.FalconH1Config(
        **common | {"num_attention_heads": heads, "num_key_value_heads": kv_heads},
        **draw(mamba(common["hidden_size"])),
        num_hidden_layers=2,
        intermediate_size=40,
        head_dim=draw(st.sampled_from([4, 8])),
        mamba_d_ssm=2 * common["hidden_size"],
        mamba_rms_norm=draw(st.booleans()),
        mamba_norm_before_gate=draw(st.booleans()),
        projectors_bias=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rope_parameters={"rope_type": "default", "rope_theta": draw(st.sampled_from([1e4, 1e11]))},
        embedding_multiplier=draw(multiplier),
        lm_head_multiplier=draw(multiplier),
        attention_in_multiplier=draw(multiplier),
        attention_out_multiplier=draw(multiplier),
        key_multiplier=draw(multiplier),
        ssm_in_multiplier=draw(multiplier),
        ssm_out_multiplier=draw(multiplier),
        ssm_multipliers=[draw(multiplier) for _ in range(5)],
        mlp_multipliers=[draw(multiplier), draw(multiplier)],
    )
    return transformers.FalconH1ForCausalLM, config


@st.composite
def rope(draw, bases, rules=("default", "llama3", "yarn")):
    """Rotary positions, plain or scaled."""
    parameters = {"rope_type": draw(st.sampled_from(rules)), "rope_theta": draw(st.sampled_from(bases))}
    if parameters["rope_type"] != "default":
        parameters |= {"factor": draw(st.sampled_from([1.0, 4.0])), "original_max_position_embeddings": 16}
    if parameters["rope_type"] == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    if parameters["rope_type"] == "yarn":
        optional = {"beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.25, "truncate": False}
        both = {"mscale": 0.7, "mscale_all_dim": 1.5}
        chosen = draw(st.sets(st.sampled_from([*optional, "mscale"])))
        parameters |= {name: value for name, value in (optional | both).items() if name in chosen}
        parameters |= both if "mscale" in chosen else {}
    return parameters


@st.composite
def llama(draw):
    config = transformers.LlamaConfig(
        **draw(sizes()),
        num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=40,
        head_dim=draw(st.sampled_from([4, 8])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        hidden_act=draw(st.sampled_from(["silu", "gelu"])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        rope_parameters=draw(rope([1e4, 5e5])),
    )
    return transformers.LlamaForCausalLM, config


@st.composite
def mamba2(draw):
    common = {key: value for key, value in draw(sizes()).items() if "attention" not in key and "key_value" not in key}
    heads = draw(st.sampled_from([4, 8]))
    config = transformers.Mamba2Config(
        **common,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        head_dim=2 * common["hidden_size"] // heads,
        state_size=12,
        n_groups=draw(st.sampled_from([1, 2])),
        conv_kernel=draw(st.sampled_from([3, 4])),
        use_bias=draw(st.booleans()),
        use_conv_bias=draw(st.booleans()),
        chunk_size=8,
        time_step_limit=draw(st.sampled_from([(0.0, float("inf")), (0.0, 0.2)])),
    )
    return transformers.Mamba2ForCausalLM, config


@st.composite
def sigmoid_experts(draw):
    """Options of experts that are chosen by a biased sigmoid."""
    chosen, groups, chosen_groups = draw(st.sampled_from([(1, 1, 1), (3, 1, 1), (2, 2, 1), (4, 2, 2)]))
    return {
        "n_routed_experts": draw(st.sampled_from([4, 8])),
        "num_experts_per_tok": chosen,
        "norm_topk_prob": chosen > 1,
        "n_group": groups,
        "topk_group": chosen_groups,
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
        "moe_intermediate_size": 12,
    }


@st.composite
def nemotron_layers(draw):
    """Layers of Nemotron-H in any order: feed-forward layers may have biases, experts may work in a narrower space."""
    dense = ["linear_attention", "full_attention", "mlp"]
    if draw(st.booleans()):
        layers = draw(st.lists(st.sampled_from(dense), min_size=1, max_size=5))
        return {"layers_block_type": layers, "mlp_bias": draw(st.booleans())}
    return {
        "layers_block_type": draw(st.permutations([*dense, "moe", "moe"])),
        "moe_latent_size": draw(st.sampled_from([None, 8])),
        "moe_shared_expert_intermediate_size": 8,
        **draw(sigmoid_experts()),
    }


@st.composite
def nemotron_h(draw):
    common = draw(sizes()) | {"tie_word_embeddings": False}
    config = transformers.NemotronHConfig(
        **common,
        **draw(nemotron_layers()),
        intermediate_size=40,
        head_dim=draw(st.sampled_from([4, 8])),
        mamba_num_heads=draw(st.sampled_from([4, 8])),
        mamba_head_dim=4,
        n_groups=draw(st.sampled_from([1, 2])),
        ssm_state_size=12,
        conv_kernel=draw(st.sampled_from([3, 4])),
        use_bias=draw(st.booleans()),
        use_conv_bias=draw(st.booleans()),
        mlp_hidden_act=draw(st.sampled_from(["relu2", "silu"])),
        chunk_size=8,
        time_step_min=draw(st.sampled_from([1e-3, 5e-2])),
    )
    return transformers.NemotronHForCausalLM, config


@st.composite
def bamba(draw):
    common = draw(sizes())
    config = transformers.BambaConfig(
        **common,
        **draw(mamba(common["hidden_size"])),
        num_hidden_layers=3,
        attn_layer_indices=draw(st.lists(st.integers(0, 2), unique=True)),
        intermediate_size=40,
        head_dim=draw(st.sampled_from([4, 8])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )
    return transformers.BambaForCausalLM, config


@st.composite
def granite_hybrid(draw):
    common = draw(sizes())
    config = transformers.GraniteMoeHybridConfig(
        **common,
        **draw(mamba(common["hidden_size"])),
        num_hidden_layers=3,
        layer_types=[draw(st.sampled_from(["linear_attention", "full_attention"])) for _ in range(3)],
        num_local_experts=draw(st.sampled_from([0, 4, 6])),
        num_experts_per_tok=draw(st.sampled_from([2, 3])),
        intermediate_size=12,
        shared_intermediate_size=40,
        head_dim=draw(st.sampled_from([4, 8])),
        attention_bias=draw(st.booleans()),
        position_embedding_type=draw(st.sampled_from([None, "rope"])),
        embedding_multiplier=draw(multiplier),
        logits_scaling=draw(st.sampled_from([1.0, 6.0])),
        residual_multiplier=draw(multiplier),
        attention_multiplier=draw(multiplier),
    )
    return transformers.GraniteMoeHybridForCausalLM, config


@st.composite
def experts(draw):
    """Options of a mixture of experts whose size has a name of its own."""
    return {"num_experts_per_tok": draw(st.sampled_from([2, 3])), "moe_intermediate_size": 12}


@st.composite
def mixtral(draw):
    config = transformers.MixtralConfig(
        **draw(sizes()),
        num_hidden_layers=draw(st.integers(1, 2)),
        num_local_experts=draw(st.sampled_from([4, 6])),
        num_experts_per_tok=draw(st.sampled_from([2, 3])),
        intermediate_size=12,
        head_dim=draw(st.sampled_from([4, 8])),
        hidden_act=draw(st.sampled_from(["silu", "gelu"])),
        sliding_window=draw(st.sampled_from([None, 6])),
        rope_parameters=draw(rope([1e4, 1e6])),
    )
    return transformers.MixtralForCausalLM, config


@st.composite
def qwen_moe(draw):
    """Options that both Qwens with experts have."""
    return {
        **draw(sizes()),
        **draw(experts()),
        "num_hidden_layers": 3,
        "num_experts": draw(st.sampled_from([4, 6])),
        "intermediate_size": 20,
        "head_dim": draw(st.sampled_from([4, 8])),
        "norm_topk_prob": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(["silu", "gelu"])),
        "rope_parameters": draw(rope([1e4], ("default", "yarn"))),
        "mlp_only_layers": draw(st.sampled_from([[], [0], [2]])),
        "decoder_sparse_step": draw(st.sampled_from([1, 2])),
    }


@st.composite
def qwen3_moe(draw):
    window = draw(st.sampled_from([None, 6]))
    config = transformers.Qwen3MoeConfig(
        **draw(qwen_moe()),
        attention_bias=draw(st.booleans()),
        use_sliding_window=window is not None,
        sliding_window=window,
    )
    return transformers.Qwen3MoeForCausalLM, config


@st.composite
def qwen2_moe(draw):
    config = transformers.Qwen2MoeConfig(
        **draw(qwen_moe()), shared_expert_intermediate_size=8, qkv_bias=draw(st.booleans())
    )
    return transformers.Qwen2MoeForCausalLM, config


@st.composite
def deepseek_v3(draw):
    common = draw(sizes())
    common["num_key_value_heads"] = common["num_attention_heads"]
    config = transformers.DeepseekV3Config(
        **common,
        **draw(sigmoid_experts()),
        num_hidden_layers=2,
        first_k_dense_replace=draw(st.integers(0, 2)),
        n_shared_experts=draw(st.sampled_from([1, 2])),
        intermediate_size=20,
        q_lora_rank=draw(st.sampled_from([None, 10])),
        kv_lora_rank=12,
        qk_nope_head_dim=draw(st.sampled_from([4, 6])),
        qk_rope_head_dim=4,
        v_head_dim=draw(st.sampled_from([6, 8])),
        rope_interleave=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        hidden_act=draw(st.sampled_from(["silu", "gelu"])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        rope_parameters=draw(rope([1e4], ("default", "yarn"))),
    )
    return transformers.DeepseekV3ForCausalLM, config


@st.composite
def jamba(draw):
    attention, experts = (
        draw(st.sampled_from([(3, 1), (2, 0), (9, 8)])),
        draw(st.sampled_from([(2, 1), (1, 0), (3, 2)])),
    )
    wide = draw(st.sampled_from([96, 128]))  # `auto` is a sixteenth of it, and a norm over a few may have nearly zeros
    config = transformers.JambaConfig(
        **draw(sizes()) | {"hidden_size": wide},
        num_hidden_layers=3,
        intermediate_size=24,
        attn_layer_period=attention[0],
        attn_layer_offset=attention[1],
        expert_layer_period=experts[0],
        expert_layer_offset=experts[1],
        num_experts=draw(st.sampled_from([1, 4])),
        num_experts_per_tok=draw(st.sampled_from([1, 2])),
        mamba_d_state=6,
        mamba_d_conv=draw(st.sampled_from([3, 4])),
        mamba_expand=draw(st.sampled_from([1, 2])),
        mamba_dt_rank=draw(st.sampled_from(["auto", 7])),
        mamba_conv_bias=draw(st.booleans()),
        mamba_proj_bias=draw(st.booleans()),
    )
    return transformers.JambaForCausalLM, config


@st.composite
def zamba2(draw):
    adapters = draw(st.booleans())
    common = draw(sizes()) | {"tie_word_embeddings": True}
    if adapters:
        common["num_key_value_heads"] = common["num_attention_heads"]
    layers = draw(st.lists(st.sampled_from(["linear_attention", "hybrid"]), min_size=1, max_size=4))
    config = transformers.Zamba2Config(
        **common,
        layers_block_type=layers,
        num_hidden_layers=len(layers),
        intermediate_size=24,
        num_mem_blocks=draw(st.integers(1, 3)),
        adapter_rank=3,
        use_shared_attention_adapter=adapters,
        use_mem_rope=draw(st.booleans()),
        add_bias_linear=draw(st.booleans()),
        hidden_act=draw(st.sampled_from(["gelu", "silu"])),
        n_mamba_heads=draw(st.sampled_from([4, 8])),
        mamba_ngroups=draw(st.sampled_from([1, 2])),
        mamba_d_state=12,
        mamba_d_conv=draw(st.sampled_from([3, 4])),
        mamba_expand=draw(st.sampled_from([1, 2])),
        chunk_size=8,
        time_step_min=draw(st.sampled_from([1e-3, 1e-2])),
    )
    return transformers.Zamba2ForCausalLM, config


DRAWN = {
    "falcon_h1": falcon_h1(),
    "llama": llama(),
    "mamba2": mamba2(),
    "nemotron_h": nemotron_h(),
    "bamba": bamba(),
    "granitemoehybrid": granite_hybrid(),
    "mixtral": mixtral(),
    "qwen3_moe": qwen3_moe(),
    "qwen2_moe": qwen2_moe(),
    "deepseek_v3": deepseek_v3(),
    "jamba": jamba(),
    "zamba2": zamba2(),
}
"""A strategy for (class, configuration) of each family."""


def their_model(drawn, seed):
    """A model of transformers' with biases and norms away from their start, embeddings of order one,
    and decays as in training.

    Their own dt_bias of one lets a state die within two tokens, where rounding alone is large in any implementation.
    """
    architecture, config = drawn
    torch.manual_seed(seed)
    model = architecture(config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
            if "embed" in name:
                parameter.mul_(8.0)
            if name.endswith(("dt_bias", "dt_proj.bias")):
                parameter.uniform_(-5.0, -1.0)
            if name.endswith("A_log"):
                parameter.uniform_(0.0, 2.0)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.uniform_(-0.3, 0.3)
    return model
