"""Falcon-H1 in Hugging Face's names: options and weights of `FalconH1ForCausalLM` as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eyas.core.errors import CheckpointError
from eyas.core.model import ModelSpec
from eyas.layers.mamba2 import Mamba2


def model_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` group for a Hugging Face configuration, given as a plain dict."""
    hidden = config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    inner = config.get("mamba_d_ssm") or int(config["mamba_expand"] * hidden)
    gate, down = config["mlp_multipliers"]
    return {
        "name": "falcon_h1",
        "hidden_size": hidden,
        "vocab_size": config["vocab_size"],
        "pattern": ["ssm+attn", "ffn"],
        "repeat": config["num_hidden_layers"],
        "norm_epsilon": config["rms_norm_eps"],
        "tie_embeddings": config["tie_word_embeddings"],
        "init_std": config["initializer_range"],
        "embedding_multiplier": config["embedding_multiplier"],
        "lm_head_multiplier": config["lm_head_multiplier"],
        "layers": {
            "ssm": {
                "kind": "mamba2",
                "num_heads": config["mamba_n_heads"],
                "head_dim": inner // config["mamba_n_heads"],
                "state_size": config["mamba_d_state"],
                "num_groups": config["mamba_n_groups"],
                "conv_kernel": config["mamba_d_conv"],
                "conv_bias": config["mamba_conv_bias"],
                "gated_norm": config["mamba_rms_norm"],
                "norm_before_gate": config["mamba_norm_before_gate"],
                "norm_epsilon": config["rms_norm_eps"],
                "projection_bias": config["mamba_proj_bias"],
                "output_bias": config.get("projectors_bias", False),
                "input_multiplier": config["ssm_in_multiplier"],
                "multipliers": list(config["ssm_multipliers"]),
                "output_multiplier": config["ssm_out_multiplier"],
            },
            "attn": {
                "kind": "attention",
                "num_heads": config["num_attention_heads"],
                "num_kv_heads": config["num_key_value_heads"],
                "head_dim": head_dim,
                "rope_base": config["rope_parameters"]["rope_theta"],
                "qkv_bias": config["attention_bias"],
                "output_bias": config["attention_bias"],
                "input_multiplier": config["attention_in_multiplier"],
                "key_multiplier": config["key_multiplier"],
                "output_multiplier": config["attention_out_multiplier"],
            },
            "ffn": {
                "kind": "mlp",
                "intermediate_size": config["intermediate_size"],
                "bias": config["mlp_bias"],
                "gate_multiplier": gate,
                "down_multiplier": down,
            },
        },
    }


def weights(theirs: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our tensors, by our names, as views of a Hugging Face state dict.

    Raises CheckpointError naming a tensor that is missing, or one that is left over.
    """
    rest = dict(theirs)

    def take(name: str) -> Tensor:
        if name not in rest:
            raise CheckpointError(f"tensor {name!r} is missing from the Falcon-H1 weights")
        return rest.pop(name)

    ours = {"embedding.weight": take("model.embed_tokens.weight")}
    for layer in range(len(spec.pattern.blocks) // 2):
        mixers, feed_forward = f"blocks.{2 * layer}", f"blocks.{2 * layer + 1}"
        source = f"model.layers.{layer}"
        ours[f"{mixers}.norm.weight"] = take(f"{source}.input_layernorm.weight")
        ours[f"{feed_forward}.norm.weight"] = take(f"{source}.pre_ff_layernorm.weight")
        for prefix, names, parts in (
            (f"{mixers}.branches.attn", f"{source}.self_attn", ATTENTION),
            (f"{feed_forward}.branches.ffn", f"{source}.feed_forward", MLP),
        ):
            for our_name, their_name in parts.items():
                ours[f"{prefix}.{our_name}"] = take(f"{names}.{their_name}.weight")
                if f"{names}.{their_name}.bias" in rest:
                    bias = "output_bias" if our_name in ("o", "down") else f"{our_name}_bias"
                    ours[f"{prefix}.{bias}"] = take(f"{names}.{their_name}.bias")
        ssm = spec.layers["ssm"]
        assert isinstance(ssm, Mamba2.Config)
        for name, tensor in mamba2_weights(rest, f"{source}.mamba.", ssm).items():
            ours[f"{mixers}.branches.ssm.{name}"] = tensor
    ours["final_norm.weight"] = take("model.final_layernorm.weight")
    head = rest.pop("lm_head.weight", None)
    if not spec.tie_embeddings:
        if head is None:
            raise CheckpointError("tensor 'lm_head.weight' is missing from the Falcon-H1 weights")
        ours["head.weight"] = head
    if rest:
        raise CheckpointError(f"tensor {min(rest)!r} has no place in this Falcon-H1")
    return ours


ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
MLP = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
SCALARS = ("A_log", "D", "dt_bias")


def mamba2_weights(rest: dict[str, Tensor], prefix: str, config: Mamba2.Config) -> dict[str, Tensor]:
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
    ours |= {name: rest.pop(f"{prefix}{name}") for name in SCALARS}
    if config.gated_norm:
        ours["norm"] = rest.pop(f"{prefix}norm.weight")
    ours["out"] = rest.pop(f"{prefix}out_proj.weight")
    if config.output_bias:
        ours["output_bias"] = rest.pop(f"{prefix}out_proj.bias")
    return ours
