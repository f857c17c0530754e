"""mamba-ssm's scans in plain torch, loaded past its package, which wants CUDA and Triton."""
# B batch, S sequence, H heads, P head dim, N state, G groups

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from unittest.mock import MagicMock, patch

from torch import Tensor

APART = Path(sys.prefix, "references")
"""Where `nox -s bench` puts mamba-ssm, out of transformers' sight."""
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""Takes x (B, S, H, P), dt (B, S, H), A (H), B and C (B, S, G, N), D (H) and the chunk; returns y (B, S, H, P)."""


def load_references() -> dict[str, Scan]:
    """The scans by name, loaded beside stand-ins for Triton; none where mamba-ssm is not installed."""
    spec = PathFinder.find_spec("mamba_ssm", [str(APART), *sys.path])
    if spec is None:
        return {}
    package = types.ModuleType("mamba_ssm")  # its own __init__ imports a compiled extension
    package.__path__ = list(spec.submodule_search_locations or ())
    triton = MagicMock(__version__="3.0.0")
    triton.autotune.return_value.return_value.configs = [MagicMock()]  # of which a module takes the smallest
    absent = {"triton": triton, "triton.language": triton.language, "causal_conv1d": None}
    with patch.dict(sys.modules, {"mamba_ssm": package, **absent}):
        listing = importlib.import_module("mamba_ssm.modules.ssd_minimal").ssd_minimal_discrete
        reference = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").ssd_chunk_scan_combined_ref

    def minimal(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int) -> Tensor:
        y, _ = listing(x * dt[..., None], A * dt, B.to(dt.dtype), C.to(dt.dtype), chunk)
        return y + x * D[:, None]

    def combined(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int) -> Tensor:
        return reference(x, dt, A, B, C, chunk, D=D)

    return {"minimal": minimal, "combined": combined}
