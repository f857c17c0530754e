"""For each family a small model of transformers' own class that has all that the family offers: attention, Mamba and
experts together, groups, biases, norms, scaled positions, none of it at its default."""

import transformers

COMMON = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 12,
    "mamba_d_conv": 3,
    "mamba_conv_bias": True,
    "mamba_proj_bias": True,
    "mamba_chunk_size": 8,
}
"""Of Mamba-2, as Bamba and Falcon-H1 spell it."""
SIGMOID_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "n_group": 2,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "moe_intermediate_size": 12,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16,
    "mscale": 0.7, "mscale_all_dim": 1.5, "truncate": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def falcon_h1():
    return transformers.FalconH1ForCausalLM, transformers.FalconH1Config(
        **COMMON,
        **MAMBA,
        num_hidden_layers=2,
        intermediate_size=40,
        head_dim=4,
        mamba_d_ssm=64,
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        projectors_bias=True,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e11},
        embedding_multiplier=1.5,
        lm_head_multiplier=0.75,
        attention_in_multiplier=1.25,
        attention_out_multiplier=0.75,
        key_multiplier=1.5,
        ssm_in_multiplier=0.75,
        ssm_out_multiplier=1.25,
        ssm_multipliers=[0.5, 1.5, 0.75, 1.25, 1.1],
        mlp_multipliers=[0.75, 1.25],
    )


def llama():
    return transformers.LlamaForCausalLM, transformers.LlamaConfig(
        **COMMON,
        num_hidden_layers=2,
        intermediate_size=40,
        head_dim=4,
        attention_bias=True,
        mlp_bias=True,
        hidden_act="gelu",
        rms_norm_eps=1e-5,
        rope_parameters=LLAMA3,
    )


def mamba2():
    common = {name: value for name, value in COMMON.items() if "attention" not in name and "key_value" not in name}
    return transformers.Mamba2ForCausalLM, transformers.Mamba2Config(
        **common,
        num_hidden_layers=3,
        num_heads=8,
        head_dim=8,
        state_size=12,
        n_groups=2,
        conv_kernel=3,
        use_bias=True,
        use_conv_bias=True,
        chunk_size=8,
    )


def nemotron_h():
    return transformers.NemotronHForCausalLM, transformers.NemotronHConfig(
        **COMMON,
        **SIGMOID_EXPERTS,
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "moe"],
        moe_latent_size=8,
        moe_shared_expert_intermediate_size=8,
        intermediate_size=40,
        head_dim=4,
        mamba_num_heads=8,
        mamba_head_dim=4,
        n_groups=2,
        ssm_state_size=12,
        conv_kernel=3,
        use_bias=True,
        use_conv_bias=True,
        mlp_hidden_act="relu2",
        chunk_size=8,
        time_step_min=1e-9,
    )


def bamba():
    return transformers.BambaForCausalLM, transformers.BambaConfig(
        **COMMON,
        **MAMBA,
        num_hidden_layers=3,
        attn_layer_indices=[1],
        time_step_limit=(0.0, 0.2),
        intermediate_size=40,
        head_dim=8,
        attention_bias=True,
        mlp_bias=True,
    )


def granite_hybrid():
    return transformers.GraniteMoeHybridForCausalLM, transformers.GraniteMoeHybridConfig(
        **COMMON,
        **MAMBA,
        num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_local_experts=6,
        num_experts_per_tok=3,
        intermediate_size=12,
        shared_intermediate_size=40,
        head_dim=4,
        attention_bias=True,
        position_embedding_type="rope",
        embedding_multiplier=1.5,
        logits_scaling=6.0,
        residual_multiplier=0.75,
        attention_multiplier=0.5,
    )


def mixtral():
    return transformers.MixtralForCausalLM, transformers.MixtralConfig(
        **COMMON,
        num_hidden_layers=2,
        num_local_experts=6,
        num_experts_per_tok=3,
        intermediate_size=12,
        head_dim=4,
        hidden_act="gelu",
        sliding_window=6,
        rope_parameters=YARN,
    )


QWEN = COMMON | {
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_experts": 6,
    "intermediate_size": 20,
    "head_dim": 4,
    "norm_topk_prob": True,
    "rope_parameters": YARN,
    "mlp_only_layers": [0],
}


def qwen3_moe():
    return transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(
        **QWEN, attention_bias=True, use_sliding_window=True, sliding_window=6
    )


def qwen2_moe():
    return transformers.Qwen2MoeForCausalLM, transformers.Qwen2MoeConfig(
        **QWEN | {"norm_topk_prob": False}, shared_expert_intermediate_size=8, qkv_bias=True
    )


def deepseek_v3():
    return transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(
        **COMMON | {"num_key_value_heads": 4},
        **SIGMOID_EXPERTS,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        n_shared_experts=2,
        intermediate_size=20,
        q_lora_rank=10,
        kv_lora_rank=12,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=8,
        rope_interleave=True,
        attention_bias=True,
        rope_parameters=YARN,
    )


def jamba():
    return transformers.JambaForCausalLM, transformers.JambaConfig(
        **COMMON,
        num_hidden_layers=4,
        intermediate_size=24,
        attn_layer_period=3,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=6,
        mamba_d_conv=3,
        mamba_expand=2,
        mamba_dt_rank=3,
        mamba_conv_bias=True,
        mamba_proj_bias=True,
    )


def zamba2():
    layers = ["linear_attention", "hybrid", "linear_attention", "hybrid", "hybrid"]
    return transformers.Zamba2ForCausalLM, transformers.Zamba2Config(
        **COMMON | {"num_key_value_heads": 4, "tie_word_embeddings": True, "initializer_range": 0.15},
        layers_block_type=layers,
        num_hidden_layers=len(layers),
        intermediate_size=24,
        num_mem_blocks=2,
        adapter_rank=3,
        use_shared_attention_adapter=True,
        use_mem_rope=True,
        add_bias_linear=True,
        hidden_act="gelu",
        n_mamba_heads=8,
        mamba_ngroups=2,
        mamba_d_state=12,
        mamba_d_conv=3,
        mamba_expand=2,
        chunk_size=8,
        time_step_min=1e-9,
    )


FULL = {
    "falcon_h1": falcon_h1,
    "llama": llama,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
    "bamba": bamba,
    "granitemoehybrid": granite_hybrid,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "qwen2_moe": qwen2_moe,
    "deepseek_v3": deepseek_v3,
    "jamba": jamba,
    "zamba2": zamba2,
}
"""What makes (class, configuration) of each family."""

LIMITED = ("bamba",)
"""Those with a limit of the time steps that bites: transformers' step with a cache knows none (torch's version of
mamba2_selective_state_update)."""
