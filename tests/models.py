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
