"""What the families with experts share: rows of their tables."""

from __future__ import annotations

from eyas.layers.hf import Part

SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Usual names of an expert's projections."""


def moe_parts(prefix: str, *, router: str = "gate", experts: dict[str, str] = SEPARATE) -> tuple[Part, ...]:
    """The router, and the experts with a tensor each for every projection."""
    return (
        Part(f"{prefix}.{router}.weight", ("router",)),
        *(Part(f"{prefix}.experts.{{}}.{theirs}.weight", (name,)) for name, theirs in experts.items()),
    )
