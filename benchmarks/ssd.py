"""The selective scan and its short convolution against Hugging Face's and mamba-ssm's torch code, forward and backward.

python benchmarks/ssd.py [--compile] [--sizes small] [--repetitions 7] [--dtype float32]
"""
# S sequence, B batch, H heads, P head dim, N state, G groups, C channels, K taps

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from functools import partial

import torch
from mamba_ssm_references import Scan, load_references
from measure import side_by_side, table
from torch import Tensor
from torch.nn import functional as F
from transformers.models.falcon_h1 import modeling_falcon_h1 as hugging_face

from eyas.layers.conv import causal_conv
from eyas.layers.ssd import ssd
from eyas.parallel import quiet

SIZES = {  # B, S, H, P, N, G
    "small": [(2, 512, 8, 32, 32, 1), (8, 512, 8, 32, 64, 1), (2, 2048, 8, 64, 64, 1)],
    "full": [(2, 2048, 16, 64, 128, 1)],
}
FALCON_H1_CHUNK = 256
BEST_CHUNK = 64
"""The chunk that Hugging Face's and mamba-ssm's torch code is fastest with on a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="also ours through torch.compile (a minute)")
    parser.add_argument("--sizes", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--decay", choices=["init", "steep"], default="init", help="Megatron's or Hugging Face's init")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    quiet.install()
    references = load_references()
    if not references:
        print("mamba-ssm is not installed, as `nox -s bench -- ssd` does: its references are left out")
    for size in [size for name, sizes in SIZES.items() if arguments.sizes in (name, "all") for size in sizes]:
        dtype = getattr(torch, arguments.dtype)
        compare_scan(size, dtype, arguments.decay == "steep", arguments.compile, references, arguments.repetitions)
        compare_conv(size, dtype, arguments.repetitions)


def compare_scan(
    size: tuple[int, ...],
    dtype: torch.dtype,
    steep: bool,
    compiled: bool,
    references: dict[str, Scan],
    repetitions: int,
) -> None:
    """Time the scans at one size, check that they agree and print their table; of Hugging Face's the torch code, even
    where mamba-ssm is installed."""
    B, S, H, P, N, G = size
    torch.manual_seed(0)
    if steep:
        dt, A = F.softplus(1 + torch.randn(S, B, H)), -torch.arange(1.0, H + 1)
    else:
        bias = torch.empty(H).uniform_(-6.9, -2.3).exp_()
        dt, A = F.softplus(torch.expm1(bias).log() + torch.randn(S, B, H)), -torch.empty(H).uniform_(1, 16)
    x, B_, C_ = (torch.randn(S, B, *tail).to(dtype) for tail in ((H, P), (G, N), (G, N)))
    ours = leaves(x, dt, A, B_, C_, torch.ones(H))
    theirs = leaves(*(t.transpose(0, 1).contiguous() if t.dim() > 1 else t for t in (x, dt, A, B_, C_)), torch.ones(H))
    dy = torch.randn(S, B, H, P).to(dtype)
    dy_theirs = dy.transpose(0, 1).contiguous()

    def hugging_face_scan(chunk: int) -> Tensor:
        x, dt, A, B_, C_, D = theirs
        return inspect.unwrap(hugging_face.mamba2_chunk_scan)(x, dt, A, B_, C_, chunk_size=chunk, D=D)

    candidates = {
        f"Hugging Face, chunk {FALCON_H1_CHUNK}": both(lambda: hugging_face_scan(FALCON_H1_CHUNK), theirs, dy_theirs),
        f"Hugging Face, chunk {BEST_CHUNK}": both(lambda: hugging_face_scan(BEST_CHUNK), theirs, dy_theirs),
        "eyas chunked": both(lambda: ssd(*ours, kernel="chunked")[0], ours, dy),
    }
    if compiled:
        candidates["eyas compiled"] = both(lambda: ssd(*ours, kernel="compiled")[0], ours, dy)
    for name, scan in references.items():
        candidates[f"mamba-ssm {name}, chunk {BEST_CHUNK}"] = both(
            partial(scan, *theirs, BEST_CHUNK), theirs, dy_theirs
        )
    measured = side_by_side(candidates, repetitions)
    check_agreement({name: run()[0] for name, run in candidates.items()}, dtype)
    title = f"scan b{B} l{S} h{H} p{P} n{N} g{G} {dtype}{' steep' if steep else ''}"
    print(table(title, measured, list(candidates)[:2], B * S), flush=True)


def check_agreement(gradients_of_x: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Stops the benchmark where a scan's gradient is not Hugging Face's; ours lies sequence first."""
    expected, *_ = gradients_of_x.values()
    tolerance = (1e-4 if dtype == torch.float32 else 3e-2) * expected.abs().max().item()
    for name, found in gradients_of_x.items():
        found = found.transpose(0, 1) if name.startswith("eyas") else found
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, msg=partial("{}: {}".format, name))


def compare_conv(size: tuple[int, ...], dtype: torch.dtype, repetitions: int) -> None:
    """Time the convolutions at one size and print their table."""
    B, S, H, P, N, G = size
    channels = H * P + 2 * G * N
    x = torch.randn(S, B, channels).to(dtype)
    ours = leaves(x, torch.randn(channels, 4).to(dtype), torch.randn(channels).to(dtype))
    theirs = leaves(x.permute(1, 2, 0).contiguous(), *ours[1:])
    dy = torch.randn_like(x)
    dy_theirs = dy.permute(1, 2, 0).contiguous()
    candidates = {
        "Hugging Face, grouped conv1d": both(
            lambda: inspect.unwrap(hugging_face.causal_conv1d_fn)(*theirs, activation="silu"), theirs, dy_theirs
        ),
        "eyas shifted adds": both(lambda: causal_conv(*ours), ours, dy),
    }
    measured = side_by_side(candidates, repetitions)
    print(table(f"conv + silu b{B} l{S} c{channels} k4 {dtype}", measured, list(candidates)[:1], B * S), flush=True)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


def both(forward: Callable[[], Tensor], inputs: tuple[Tensor, ...], dy: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward as one call."""

    def run() -> tuple[Tensor, ...]:
        y = forward()
        return torch.autograd.grad(y, inputs, dy.to(y.dtype))

    return run


if __name__ == "__main__":
    main()
