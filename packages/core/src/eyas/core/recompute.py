"""What the backward pass computes again instead of keeping it: whole blocks, or parts of them by role."""

from __future__ import annotations

from typing import Literal

from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec

Recompute = tuple[str, ...] | Literal["full"]
"""Roles of mixers (`MixerConfig.role`) and NORM; or FULL: of every block only what it reads is kept."""
FULL: Literal["full"] = "full"
NORM = "norm"
"""The norms of blocks, and their results."""


def recomputes(recompute: Recompute, role: str) -> bool:
    """Whether parts of this role are chosen, in blocks that are not recomputed as a whole."""
    return recompute != FULL and role in recompute


def roles(spec: ModelSpec) -> set[str]:
    """The roles that a model's blocks have."""
    return {NORM, *(layer.role for layer in spec.used_layers.values())}


def check_recompute(recompute: Recompute, spec: ModelSpec) -> None:
    """Raises LayoutError for a role that the model does not have, and for mixers that a second pass would not find what
    they borrow."""
    for name, layer in spec.used_layers.items():
        shares = layer.lends or layer.borrows
        if shares is not None and (recompute == FULL or recomputes(recompute, layer.role)):
            raise LayoutError(
                f"layout.recompute={recompute if recompute == FULL else list(recompute)} cannot repeat "
                f"model.layers.{name}, which shares {shares!r} with other blocks; leave {layer.role} out of it"
            )
    if recompute == FULL:
        return
    for role in recompute:
        if role not in (known := roles(spec)):
            raise LayoutError(
                f"layout.recompute: {role!r} is nothing that this model has; choose among {', '.join(sorted(known))}, "
                "or layout.recompute=full"
            )
