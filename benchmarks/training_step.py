"""A whole training step of the same small Falcon-H1 and batch: ours against transformers with torch's AdamW.

python benchmarks/training_step.py [--sizes tiny] [--steep] [--threads 1] [--repetitions 5]

A step is forward, loss, backward, clipping and AdamW in float32. Ours runs through the engine that training uses
(Megatron-Core's schedule, buffers and optimizer, in a group of one), and as plain autograd. The last row is the
time of the weights' matrix products alone, which bounds every ratio. Memory is everything that
torch holds from the empty model to the end of a second step: weights, optimizer, activations.
"""
# S sequence, B batch, V vocabulary

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable

import torch
from falcon_h1 import BEST_CHUNK, FALCON_H1_CHUNK, SIZES, our_model, their_model
from measure import peak_bytes, side_by_side, table
from torch import Tensor, nn

from eyas.layers.linear import linear
from eyas.layers.model import HybridLM
from eyas.layers.scratch import release
from eyas.parallel import quiet
from eyas.parallel.alone import alone
from eyas.parallel.engine import Engine
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions

OPTIMIZER = OptimizerOptions()
BATCHES = {"tiny": (16, 256), "small": (4, 512)}  # B, S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steep", action="store_true", help="Hugging Face's initial decays")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quiet.install()
    with alone():
        for size in arguments.sizes:
            compare(size, arguments.steep, arguments.repetitions)


def compare(size: str, steep: bool, repetitions: int) -> None:
    """Check that the first two steps have the same losses, then time steps and print the table."""
    B, S = BATCHES[size]
    tokens_BS = torch.randint(1, 4096, (B, S + 1), generator=torch.Generator().manual_seed(1))
    batch = {"tokens": tokens_BS[:, :-1].contiguous(), "labels": tokens_BS[:, 1:].contiguous()}
    variants: dict[str, Callable[[], Callable[[], float]]] = {
        f"Hugging Face, chunk {FALCON_H1_CHUNK}": lambda: their_step(
            their_model(size, FALCON_H1_CHUNK, steep=steep), batch
        ),
        f"Hugging Face, chunk {BEST_CHUNK}": lambda: their_step(their_model(size, BEST_CHUNK, steep=steep), batch),
        f"Hugging Face, chunk {BEST_CHUNK}, fused AdamW": lambda: their_step(
            their_model(size, BEST_CHUNK, steep=steep), batch, fused=True
        ),
        "eyas, plain autograd": lambda: plain_step(our_model(their_model(size, BEST_CHUNK, steep=steep)), batch),
        "eyas, engine": lambda: engine_step(our_model(their_model(size, BEST_CHUNK, steep=steep)), batch),
    }
    losses, peaks = {}, {}
    for name, build in variants.items():
        losses[name], peaks[name] = first_steps(build)
        gc.collect()
    expected = next(iter(losses.values()))
    for name, found in losses.items():
        torch.testing.assert_close(
            torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=0, msg=f"{name}: {found}"
        )
    steps: dict[str, Callable[[], object]] = {name: build() for name, build in variants.items()}
    steps["matrix products of the weights alone"] = matrix_products(our_model(their_model(size, BEST_CHUNK)), B * S)
    peaks["matrix products of the weights alone"] = 0
    title = f"training step {size}: b{B} l{S}{' steep' if steep else ''}"
    print(table(title, side_by_side(steps, repetitions, peaks), list(variants)[:2], B * S), flush=True)


def first_steps(build: Callable[[], Callable[[], float]]) -> tuple[list[float], int]:
    """Losses of the first two steps, and the most memory held from before the model is made."""
    losses: list[float] = []

    def run() -> None:
        step = build()
        losses.extend(step() for _ in range(2))

    release()
    return losses, peak_bytes(run)


def their_step(model: nn.Module, batch: dict[str, Tensor], fused: bool = False) -> Callable[[], float]:
    labels = batch["labels"]
    return autograd_step(
        model, lambda: nn.functional.cross_entropy(model(batch["tokens"]).logits.flatten(0, 1), labels.flatten()), fused
    )


def plain_step(model: HybridLM, batch: dict[str, Tensor]) -> Callable[[], float]:
    return autograd_step(model, lambda: model(batch["tokens"], batch["labels"]).mean(), fused=True)


def autograd_step(model: nn.Module, loss_of: Callable[[], Tensor], fused: bool) -> Callable[[], float]:
    """The textbook step."""
    o = OPTIMIZER
    adam = torch.optim.AdamW(
        model.parameters(), o.learning_rate, (o.beta1, o.beta2), o.epsilon, o.weight_decay, fused=fused
    )

    def step() -> float:
        adam.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
        adam.step()
        return loss.item()

    return step


def engine_step(model: HybridLM, batch: dict[str, Tensor]) -> Callable[[], float]:
    spec = model.spec
    engine = Engine(
        [model],
        Layout(),
        hidden_size=spec.hidden_size,
        dtype=torch.float32,
        tied=spec.embeds_twice,
        optimizer=OPTIMIZER,
    )

    def step() -> float:
        loss = engine.train_step([batch])["loss"]
        engine.update(OPTIMIZER.learning_rate, OPTIMIZER.weight_decay)
        return loss

    return step


def matrix_products(model: HybridLM, tokens: int) -> Callable[[], None]:
    """For every weight the three products of a step: forward, and backward for its input and for itself."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2 and parameter.shape[1] > 4]
    weights = [matrix.detach().requires_grad_() for matrix in matrices]
    widths = {size for weight in weights for size in weight.shape}
    inputs = {width: torch.randn(tokens, width, requires_grad=True) for width in widths}

    def run() -> None:
        for weight in weights:
            linear(inputs[weight.shape[1]], weight).backward(inputs[weight.shape[0]])

    return run


if __name__ == "__main__":
    main()
