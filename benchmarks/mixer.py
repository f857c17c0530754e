"""Our Mamba-2 mixer against Hugging Face's FalconH1Mixer with the same weights, forward and backward.

python benchmarks/mixer.py [--sizes tiny] [--steep] [--compile] [--threads 1] [--repetitions 7]
"""
# S sequence, B batch, D hidden

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from falcon_h1 import BEST_CHUNK, FALCON_H1_CHUNK, SIZES, our_model, their_model
from measure import side_by_side, table
from torch import Tensor, nn

from eyas.layers.mamba2 import Mamba2
from eyas.parallel import quiet
from eyas.parallel.context import Context

BATCH, LENGTH = 2, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steep", action="store_true", help="Hugging Face's initial decays")
    parser.add_argument("--compile", action="store_true", help="also ours with the compiled scan (a minute)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quiet.install()
    for size in arguments.sizes:
        compare(size, arguments.steep, arguments.compile, arguments.repetitions)


def compare(size: str, steep: bool, compiled: bool, repetitions: int) -> None:
    """Check that results and gradients agree, then time the mixers and print their table."""
    candidates: dict[str, Callable[[], list[Tensor]]] = {}
    hidden = SIZES[size]["hidden_size"]
    draw = torch.Generator().manual_seed(1)
    x_SBD, dy_SBD = (torch.randn(LENGTH, BATCH, hidden, generator=draw) for _ in range(2))
    for chunk in (FALCON_H1_CHUNK, BEST_CHUNK):
        theirs = their_model(size, chunk, steep=steep, num_hidden_layers=1)
        candidates[f"Hugging Face, chunk {chunk}"] = both_ways(
            theirs.model.layers[0].mamba, x_SBD.transpose(0, 1).contiguous(), dy_SBD.transpose(0, 1).contiguous()
        )
    for kernel in ("chunked", "compiled") if compiled else ("chunked",):
        mixer = our_model(theirs).get_submodule("blocks.0.branches.ssm")
        assert isinstance(mixer, Mamba2)
        mixer.config = replace(mixer.config, kernel=kernel)
        candidates[f"eyas {kernel}"] = both_ways(mixer, x_SBD, dy_SBD, Context())
    names = list(candidates)
    for mine, other in zip(candidates["eyas chunked"](), candidates[names[1]](), strict=True):
        torch.testing.assert_close(mine, other.transpose(0, 1), rtol=1e-3, atol=1e-5 * other.abs().max().item())
    title = f"mixer {size}: b{BATCH} l{LENGTH} hidden {hidden}{' steep' if steep else ''}"
    print(table(title, side_by_side(candidates, repetitions), names[:2], BATCH * LENGTH), flush=True)


def both_ways(mixer: nn.Module, x: Tensor, dy: Tensor, *context: Context) -> Callable[[], list[Tensor]]:
    """Forward and backward as one call: output and gradient of the input; the weights' gradients are not kept."""
    x = x.detach().requires_grad_()

    def run() -> list[Tensor]:
        y = mixer(x, *context)
        return [y.detach(), torch.autograd.grad(y, [x, *mixer.parameters()], dy)[0]]

    return run


if __name__ == "__main__":
    main()
