"""Zamba2 in Hugging Face's names: options and weights of `Zamba2ForCausalLM` as ours."""

import math


def hybrids(config):
    """Indices of the layers in front of which a shared transformer stands."""
    return [index for index, kind in enumerate(config["layers_block_type"]) if kind == "hybrid"]


def model_data(config):
    """The `model` group. A hybrid layer is three blocks: shared attention and shared MLP, both aside, then Mamba-2."""
    hidden, head_dim = config["hidden_size"], 2 * config["hidden_size"] // config["num_attention_heads"]
    inner = config["mamba_expand"] * hidden
    blocks, pattern = {}, []
    for memory in range(config["num_mem_blocks"]):
        adapters = {"adapter_rank": config["adapter_rank"], "adapters": {"attn": ["q", "k", "v"]}}
        blocks[f"attend{memory}"] = {
            "layers": "attn", "shared": True, "reads": "stream_and_embedding", "writes": "aside",
            **(adapters if config["use_shared_attention_adapter"] else {}),
        }  # fmt: skip
        blocks[f"think{memory}"] = {
            "layers": "ffn", "shared": True, "reads": "aside", "writes": "aside", "projection": True,
            "adapter_rank": config["adapter_rank"], "adapters": {"ffn": ["gate+up"]},
        }  # fmt: skip
    for kind in config["layers_block_type"]:
        if kind == "hybrid":
            memory = sum(item.startswith("attend") for item in pattern) % config["num_mem_blocks"]
            pattern += [f"attend{memory}", f"think{memory}"]
        pattern.append("ssm")
    return {
        "hidden_size": hidden,
        "vocab_size": config["vocab_size"],
        "pattern": pattern,
        "blocks": blocks,
        "norm_epsilon": config["rms_norm_eps"],
        "tie_embeddings": config["tie_word_embeddings"],
        "layers": {
            "ssm": {
                "kind": "mamba2", "num_heads": config["n_mamba_heads"], "head_dim": inner // config["n_mamba_heads"],
                "state_size": config["mamba_d_state"], "num_groups": config["mamba_ngroups"],
                "conv_kernel": config["mamba_d_conv"], "projection_bias": config["add_bias_linear"],
                "output_bias": config["add_bias_linear"], "time_step_limit": [config["time_step_min"], math.inf],
            },
            "attn": {
                "kind": "attention", "num_heads": config["num_attention_heads"],
                "num_kv_heads": config["num_key_value_heads"], "head_dim": head_dim,
                "rope_base": 1e4 if config["use_mem_rope"] else None, "key_multiplier": math.sqrt(2),
            },
            "ffn": {
                "kind": "mlp", "intermediate_size": config["intermediate_size"], "activation": "gelu",
                "bias": config["add_bias_linear"],
            },
        },
    }  # fmt: skip


def weights(theirs, spec, config):
    """Our tensors by our names; tied copies of shared weights in `theirs` may be there or not."""
    rest = dict(theirs)
    take = rest.pop
    ours, index = {"embedding.weight": take("model.embed_tokens.weight")}, 0
    for layer, kind in enumerate(config["layers_block_type"]):
        mamba = f"model.layers.{layer}"
        if kind == "hybrid":
            use = hybrids(config).index(layer)
            memory = use % config["num_mem_blocks"]
            first = f"model.layers.{hybrids(config)[memory]}.shared_transformer"
            if use == memory:
                ours |= shared_weights(rest, first, memory)
            ours |= use_weights(rest, first, use, f"blocks.{index}", f"blocks.{index + 1}")
            ours[f"blocks.{index + 1}.projection"] = take(f"{mamba}.linear.weight")
            mamba, index = f"{mamba}.mamba_decoder", index + 2
        ours[f"blocks.{index}.norm.weight"] = take(f"{mamba}.input_layernorm.weight")
        for name, tensor in mamba2_weights(rest, f"{mamba}.mamba.", spec.layers["ssm"]).items():
            ours[f"blocks.{index}.branches.ssm.{name}"] = tensor
        index += 1
    ours["final_norm.weight"] = take("model.final_layernorm.weight")
    head = take("lm_head.weight", None)
    if not spec.tie_embeddings:
        ours["head.weight"] = head
    copies = {f".{layer}.shared_transformer" for layer in hybrids(config)[config["num_mem_blocks"] :]}
    left = [name for name in rest if not any(copy in name for copy in copies)]
    assert not left, left
    return ours


def shared_weights(rest, source, memory):
    """The weights that all places of one memory block share."""
    attend, think = f"shared.attend{memory}", f"shared.think{memory}"
    ours = {
        f"{attend}.norm.weight": rest.pop(f"{source}.input_layernorm.weight"),
        f"{think}.norm.weight": rest.pop(f"{source}.pre_ff_layernorm.weight"),
    }
    for name in "qkvo":
        ours[f"{attend}.branches.attn.{name}"] = rest.pop(f"{source}.self_attn.{name}_proj.weight")
    mlp, feed_forward = f"{think}.branches.ffn", f"{source}.feed_forward"
    ours[f"{mlp}.gate"], ours[f"{mlp}.up"] = rest.pop(f"{feed_forward}.gate_up_proj.weight").chunk(2)
    ours[f"{mlp}.down"] = rest.pop(f"{feed_forward}.down_proj.weight")
    if f"{feed_forward}.down_proj.bias" in rest:
        gate, up = rest.pop(f"{feed_forward}.gate_up_proj.bias").chunk(2)
        down = rest.pop(f"{feed_forward}.down_proj.bias")
        ours |= {f"{mlp}.gate_bias": gate, f"{mlp}.up_bias": up, f"{mlp}.output_bias": down}
    return ours


def use_weights(rest, source, use, attend, think):
    """The adapters of one place."""
    lists = f"{source}.feed_forward.gate_up_proj_adapter_list.{use}"
    gate, up = rest.pop(f"{lists}.1.weight").chunk(2)
    ours = {"A_gate_up": rest.pop(f"{lists}.0.weight"), "B_gate": gate, "B_up": up}
    ours = {f"{think}.adapters.ffn.{name}": tensor for name, tensor in ours.items()}
    for name in "qkv":
        adapter = f"{source}.self_attn.linear_{name}_adapter_list.{use}"
        if f"{adapter}.0.weight" in rest:
            ours[f"{attend}.adapters.attn.A_{name}"] = rest.pop(f"{adapter}.0.weight")
            ours[f"{attend}.adapters.attn.B_{name}"] = rest.pop(f"{adapter}.1.weight")
    return ours


def mamba2_weights(rest, prefix, config):
    """Takes one Mamba-2 mixer's tensors out of `rest`: the fused projection [z | x | B | C | dt] and the convolution
    over [x | B | C], each as its parts."""
    group = config.num_groups * config.state_size
    parts = {"z": config.inner_size, "x": config.inner_size, "B": group, "C": group, "dt": config.num_heads}
    convolved = [parts[name] for name in "xBC"]
    fused = rest.pop(f"{prefix}in_proj.weight").split(list(parts.values()))
    ours = dict(zip(parts, fused, strict=True))
    if config.projection_bias:
        biases = rest.pop(f"{prefix}in_proj.bias").split(list(parts.values()))
        ours |= {f"{name}_proj_bias": bias for name, bias in zip(parts, biases, strict=True)}
    for name, taps in zip("xBC", rest.pop(f"{prefix}conv1d.weight").squeeze(1).split(convolved), strict=True):
        ours[f"conv_{name}"] = taps
    if config.conv_bias:
        for name, bias in zip("xBC", rest.pop(f"{prefix}conv1d.bias").split(convolved), strict=True):
            ours[f"conv_{name}_bias"] = bias
    ours |= {name: rest.pop(f"{prefix}{name}") for name in ("A_log", "D", "dt_bias")}
    if config.gated_norm:
        ours["norm"] = rest.pop(f"{prefix}norm.weight")
    ours["out"] = rest.pop(f"{prefix}out_proj.weight")
    if config.output_bias:
        ours["output_bias"] = rest.pop(f"{prefix}out_proj.bias")
    return ours
