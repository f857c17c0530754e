"""Mamba-2's selective scan (SSD): one function, several kernels, one result."""
# S sequence, B batch, H heads, P head dim, N state, G groups

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name
from eyas.layers import ssd_mamba_ssm
from eyas.layers.ssd_chunked import ssd_chunked
from eyas.layers.ssd_sequential import ssd_sequential, ssd_step

__all__ = ["Kernel", "ssd", "ssd_step"]

Kernel = Literal["auto", "chunked", "compiled", "sequential", "mamba_ssm"]


def ssd(
    x_SBHP: Tensor,
    dt_SBH: Tensor,
    A_H: Tensor,
    B_SBGN: Tensor,
    C_SBGN: Tensor,
    D_H: Tensor | None = None,
    *,
    initial_state_BHPN: Tensor | None = None,
    documents_SB: Tensor | None = None,
    kernel: Kernel = "auto",
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan a sequence: h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t. Returns y and the last state.

    dt is positive already and A negative; head h reads group h // (H / G). Where `documents` (S, B) changes from one
    token to the next the state starts again from zero, exactly; `initial_state` belongs to the first token's document.
    States are kept in at least float32. `chunk_size` is a matter of speed alone; None takes the kernel's own.
    "compiled" runs the chunked kernel through torch.compile: a little less memory, but on the CPU measured no faster,
    as matrix products take most of the time either way; so "auto" never takes it.
    """
    _check_shapes(x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN)
    starts_SB = None if documents_SB is None else document_starts(documents_SB)
    operands = (x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN, D_H, initial_state_BHPN, starts_SB)
    match kernel:
        case "auto" if x_SBHP.is_cuda and x_SBHP.itemsize <= 4 and ssd_mamba_ssm.available():
            return ssd_mamba_ssm.ssd_mamba_ssm(*operands, chunk_size=chunk_size)
        case "auto" | "chunked":
            return ssd_chunked(*operands, chunk_size=chunk_size)
        case "compiled":
            return ssd_chunked(*operands, chunk_size=chunk_size, compiled=True)
        case "sequential":
            return ssd_sequential(*operands)
        case "mamba_ssm":
            return ssd_mamba_ssm.ssd_mamba_ssm(*operands, chunk_size=chunk_size)
    raise ConfigError(unknown_name("ssd kernel", kernel, get_args(Kernel)))


def document_starts(documents_SB: Tensor) -> Tensor:
    """True where a token's document differs from the one before it; the first token of a row starts nothing."""
    starts = documents_SB != documents_SB.roll(1, 0)
    starts[0] = False
    return starts


def _check_shapes(x_SBHP: Tensor, dt_SBH: Tensor, A_H: Tensor, B_SBGN: Tensor, C_SBGN: Tensor) -> None:
    (S, B, H, _), groups = x_SBHP.shape, B_SBGN.shape[2]
    if dt_SBH.shape != (S, B, H) or A_H.shape != (H,) or B_SBGN.shape[:2] != (S, B) or C_SBGN.shape != B_SBGN.shape:
        given = ", ".join(str(tuple(t.shape)) for t in (x_SBHP, dt_SBH, A_H, B_SBGN, C_SBGN))
        raise ConfigError(f"ssd needs x (S, B, H, P), dt (S, B, H), A (H), B and C (S, B, G, N); got {given}")
    if S == 0 or H % groups:
        raise ConfigError(
            f"ssd needs a token and heads that divide into groups; got {S} tokens, {H} heads over {groups} groups"
        )
