"""The scan on a GPU by mamba-ssm's Triton kernels; the only file that imports mamba_ssm."""
# S sequence, B batch, H heads, P head dim, N state, G groups

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eyas.core.errors import ConfigError

# mamba_ssm/__init__.py imports this extension (Mamba-1's, unused here) without a guard; kernels-only installs lack it.
UNUSED_EXTENSION = "selective_scan_cuda"


def available() -> bool:
    """Whether mamba-ssm and Triton are installed; imports neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("mamba_ssm", "triton"))


def check(cuda: bool) -> None:
    """Raises ConfigError where there is no GPU, or no mamba-ssm with Triton."""
    if not cuda:
        raise ConfigError("kernel=mamba_ssm needs a GPU, and there is none here; choose auto or chunked")
    if not available():
        raise ConfigError(
            "kernel=mamba_ssm needs mamba-ssm and triton; pip install 'eyas-layers[cuda]', or choose auto or chunked"
        )


def ssd_mamba_ssm(
    x_SBHP: Tensor,
    dt_SBH: Tensor,
    A_H: Tensor,
    B_SBGN: Tensor,
    C_SBGN: Tensor,
    D_H: Tensor | None,
    initial_state_BHPN: Tensor | None,
    starts_SB: Tensor | None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`mamba_chunk_scan_combined` of mamba-ssm 2.3.1 or later; `starts` as in `ssd_sequential`."""
    check(x_SBHP.is_cuda)
    documents_BS = None if starts_SB is None else starts_SB.cumsum(0, dtype=torch.int32).t().contiguous()
    y, state, *_ = _kernel()(
        *(t.transpose(0, 1).contiguous() for t in (x_SBHP, dt_SBH)),
        A_H,
        *(t.transpose(0, 1).contiguous() for t in (B_SBGN, C_SBGN)),
        chunk_size=chunk_size or 256,
        D=D_H,
        initial_states=initial_state_BHPN,
        seq_idx=documents_BS,
        return_final_states=True,
    )
    return y.transpose(0, 1), state


def _kernel() -> Callable[..., Any]:
    """mamba-ssm's function, its package imported with an empty stand-in for the extension if that is not built."""
    if UNUSED_EXTENSION not in sys.modules and importlib.util.find_spec(UNUSED_EXTENSION) is None:
        sys.modules[UNUSED_EXTENSION] = types.ModuleType(UNUSED_EXTENSION)
    kernel: Callable[..., Any] = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    return kernel
