"""Small models that tests draw from."""

from typing import Any


def falcon_h1(
    *, heads=4, kv_heads=2, ssm_heads=4, groups=1, norm=True, tied=False, repeat=2, vocab=50
) -> dict[str, Any]:
    """A Falcon-H1 of a few thousand weights."""
    return {
        "hidden_size": 16,
        "vocab_size": vocab,
        "pattern": ["ssm+attn", "ffn"],
        "repeat": repeat,
        "tie_embeddings": tied,
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


def mixture(*, repeat=2, tied=False, **moe) -> dict[str, Any]:
    """A hybrid with a mixture of experts of a few thousand weights."""
    model = falcon_h1(repeat=repeat, tied=tied) | {"pattern": ["ssm", "moe", "attn"], "mup": None}
    experts = {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8}
    model["layers"] = {name: model["layers"][name] for name in ("ssm", "attn")} | {"moe": experts | moe}
    return model
