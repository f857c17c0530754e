"""Small models that tests draw from."""

from typing import Any


def falcon_h1(
    *, heads=4, kv_heads=2, ssm_heads=4, groups=1, norm=True, tied=False, repeat=2, vocab=50, depths=0
) -> dict[str, Any]:
    """A Falcon-H1 of a few thousand weights, with a tail of some multi-token-prediction depths."""
    return {
        "hidden_size": 16,
        "vocab_size": vocab,
        "pattern": ["ssm+attn", "ffn", *["/", "ssm+attn", "ffn"] * depths],
        "repeat": repeat,
        "tie_embeddings": tied,
        "mtp_loss_weight": 0.3,
        "mup": "falcon_h1",
        "init_std": 0.05,
        "layers": {
            "ssm": {
                "kind": "mamba2", "num_heads": ssm_heads, "head_dim": 4, "state_size": 5, "num_groups": groups,
                "gated_norm": norm, "chunk_size": 4,
            },
            "attn": {"kind": "attention", "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 8, "qk_norm": True},
            "ffn": {"kind": "mlp", "intermediate_size": 24, "bias": True},
        },
    }  # fmt: skip


def zamba2(*, repeat=2, tied=True, vocab=50, **changes) -> dict[str, Any]:
    """Mamba-2 layers, in front of some of which a shared transformer with adapters stands."""
    adapted = {"shared": True, "adapter_rank": 3, "writes": "aside"}
    return {
        "hidden_size": 16,
        "vocab_size": vocab,
        "pattern": ["ssm", "attend", "think", "ssm"],
        "repeat": repeat,
        "tie_embeddings": tied,
        "init_std": 0.05,
        "blocks": {
            "attend": {
                "layers": "attn", "reads": "stream_and_embedding", "adapters": {"attn": ["q", "k+v", "o"]}, **adapted,
            },
            "think": {
                "layers": "ffn", "reads": "aside", "adapters": {"ffn": ["gate+up"]}, "projection": True,
                "output_multiplier": 0.5, **adapted,
            },
        },
        "layers": {
            "ssm": {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "chunk_size": 4},
            "attn": {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4},
            "ffn": {"kind": "mlp", "intermediate_size": 24, "bias": True},
        },
    } | changes  # fmt: skip


def hymba(*, meta_tokens=4, repeat=1, vocab=50, **changes) -> dict[str, Any]:
    """Attention and Mamba-2 side by side, normalised and averaged, behind meta tokens."""
    mean = {"combine": "normalised_mean", "projection": True}
    return {
        "hidden_size": 16,
        "vocab_size": vocab,
        "meta_tokens": meta_tokens,
        "pattern": ["whole", "ffn", "local", "ffn"],
        "repeat": repeat,
        "init_std": 0.05,
        "blocks": {"whole": {"layers": "attn+ssm", **mean}, "local": {"layers": "near+ssm", **mean}},
        "layers": {
            "ssm": {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "output_bias": True},
            "attn": {"kind": "attention", "num_heads": 4, "num_kv_heads": 1, "head_dim": 4},
            "near": {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "window": 3},
            "ffn": {"kind": "mlp", "intermediate_size": 24, "bias": True},
        },
    } | changes  # fmt: skip


def lending(**changes) -> dict[str, Any]:
    """As `hymba`, with keys and values that two later blocks use again."""
    model = hymba(pattern=["whole", "ffn", "local", "ffn", "again", "ffn", "again"], **changes)
    near = model["layers"]["near"] | {"qk_norm": True, "qkv_bias": True}
    model["layers"] |= {"near": near | {"lends_kv": "near"}, "same": near | {"borrows_kv": "near"}}
    model["blocks"]["again"] = model["blocks"]["local"] | {"layers": "same+ssm"}
    return model


def mixture(*, repeat=2, tied=False, **moe) -> dict[str, Any]:
    """A hybrid with a mixture of experts of a few thousand weights."""
    model = falcon_h1(repeat=repeat, tied=tied) | {"pattern": ["ssm", "moe", "attn"], "mup": None}
    experts = {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8}
    model["layers"] = {name: model["layers"][name] for name in ("ssm", "attn")} | {"moe": experts | moe}
    return model


BALANCED: dict[str, Any] = {
    "score": "sigmoid", "selection_bias_rate": 0.05, "shared_size": 8, "sequence_balance_loss": 0.1, "num_groups": 2,
    "top_groups": 1, "scaling_factor": 2.5, "latent_size": 8, "gated": False, "activation": "squared_relu",
}  # fmt: skip
PENALISED: dict[str, Any] = {
    "score": "softmax",
    "balance_loss": 0.1,
    "z_loss": 0.01,
    "shared_size": 4,
    "shared_output_gate": True,
}
"""Options of a mixture that losses balance; above them those of one that a bias does."""

MIXERS: dict[str, dict[str, Any]] = {
    "mla": {
        "kind": "mla", "num_heads": 4, "kv_lora_rank": 6, "q_lora_rank": 5, "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2, "v_head_dim": 4, "down_bias": True, "output_bias": True,
    },
    "gated_delta_net": {
        "kind": "gated_delta_net", "num_heads": 4, "num_key_heads": 2, "key_head_dim": 4, "value_head_dim": 3,
        "chunk_size": 4,
    },
    "linear_attention": {"kind": "linear_attention", "num_heads": 4, "head_dim": 3, "chunk_size": 4},
    "mamba1": {
        "kind": "mamba1", "inner_size": 8, "dt_rank": 3, "state_size": 5, "inner_norms": True, "output_bias": True,
        "chunk_size": 4,
    },
}  # fmt: skip
"""One of each mixer that no other small model holds; four tensor-parallel ranks can split it."""


def holding(mixer: dict[str, Any]) -> dict[str, Any]:
    """A small model with that mixer, alone in a block and beside another."""
    ffn = {"kind": "mlp", "intermediate_size": 24}
    return {
        "hidden_size": 16,
        "vocab_size": 50,
        "pattern": ["mixer", "mixer+ffn"],
        "init_std": 0.1,
        "layers": {"mixer": mixer, "ffn": ffn},
    }
