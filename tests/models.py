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


MIXERS: dict[str, dict[str, Any]] = {
    "mla": {
        "kind": "mla", "num_heads": 4, "kv_lora_rank": 6, "q_lora_rank": 5, "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2, "v_head_dim": 4, "down_bias": True, "output_bias": True,
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
