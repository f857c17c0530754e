"""Proof that a layout changes nothing: the same few training steps under any layout and in one process.

    assert_layout_changes_nothing(model, Layout(tensor=2, sequence=True))

is a whole test. It compares loss, gradient norms, every whole gradient and the weights after the steps, in float64.
"""

# B batch, S sequence

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from eyas.core.mixer import held
from eyas.core.model import load_model
from eyas.core.weights import Weight
from eyas.layers.testing.compare import ROUNDING, TOLERANCE, assert_close
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool

if TYPE_CHECKING:
    from eyas.parallel.engine import Engine

CLIPPED_TOLERANCE = 1e-5
"""Where Megatron-Core forces float32: the gradient norm, and with it the steps that it clips."""
STEADY = OptimizerOptions(learning_rate=1e-4, epsilon=0.1, clip_norm=0.0)
"""Steps that keep roundings small. With Adam's usual epsilon of 1e-8 a first step has the sign of a gradient alone, and
an entry that cancels nearly to nothing moves its weight by what rounding left of it. Of a drawn model one process with
its microbatches regrouped departs from itself by 5e-11 then and by 1e-13 with this epsilon; four tensor-parallel
processes by 4e-8 and by 8e-13. And Falcon-H1's law gives small widths gradients of 50 and more, from which a step of
1e-3 leads to where roundings are a thousand times larger; after one of 1e-4 they are as before. A step here also
depends on the gradient's size, so that the weights compare it too."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A short training that every layout must agree on."""

    model: Mapping[str, Any]
    """The `model` group as plain data."""
    steps: int = 2
    global_batch: int = 4
    microbatch: int = 1
    sequence_length: int = 16
    ignored: float = 0.2
    """Share of the labels that have no loss."""
    documents: bool = False
    """Whether rows are packed from several documents."""
    seed: int = 0
    dtype: torch.dtype = torch.float64
    """Of weights and activations."""
    wide_gradients: bool = True
    """Whether gradients of bfloat16 weights are added up in float32."""
    optimizer: OptimizerOptions = STEADY

    @property
    def rounding(self) -> float:
        """How far a weight may stray whose gradient is exactly zero, as that of a key's bias under softmax is: Adam
        divides what rounding leaves of it by `epsilon`. And where that is large, by rounding itself."""
        return ROUNDING + self.steps * self.optimizer.learning_rate * ROUNDING / self.optimizer.epsilon

    def batch(self, step: int) -> dict[str, Tensor]:
        """tokens, labels and documents of a step's global batch, each (B, S)."""
        draw = torch.Generator().manual_seed(self.seed * 1000 + step)
        shape = (self.global_batch, self.sequence_length)
        vocab_size = self.model["vocab_size"]
        tokens, labels = (torch.randint(0, vocab_size, shape, generator=draw) for _ in range(2))
        labels[torch.rand(shape, generator=draw) < self.ignored] = -100
        batch = {"tokens": tokens, "labels": labels}
        if self.documents:
            batch["documents"] = (torch.rand(shape, generator=draw) < 0.2).long().cumsum(1)
        if self.model.get("dropout"):
            from eyas.layers.dropout import token_seeds

            batch["seeds"] = token_seeds(self.seed, step * self.global_batch, *shape)
        return batch


@dataclass(frozen=True)
class Outcome:
    """What a layout computed, put together from all ranks."""

    losses: list[dict[str, float]]
    """Of each step, by name."""
    grad_norms: list[float]
    kind_norms: list[dict[str, float]]
    """Gradient norms of each step by kind of mixer."""
    gradients: dict[str, Tensor]
    """Of the first step, whole, by parameter name."""
    start: dict[str, Tensor]
    """Weights before the first step, whole."""
    weights: dict[str, Tensor]
    """After the last step, whole."""


def assert_layout_changes_nothing(model: Mapping[str, Any], layout: Layout, **options: Any) -> None:
    """Trains `model` (plain data of the `model` group) for two steps under `layout` and in one process, on workers of
    this machine, and raises AssertionError naming the first quantity that differs. `options` are those of Trial."""
    trial = Trial(model=model, **options)
    expected, actual = run(trial, Layout()), run(trial, layout)
    assert_equal_outcomes(actual, expected, trial, layout)


def assert_equal_outcomes(actual: Outcome, expected: Outcome, trial: Trial, layout: Layout) -> None:
    """Raises AssertionError for the first quantity that differs by more than the tolerance. Of weights behind clipped
    steps, which are short, the ways are compared that they went."""
    stepped = CLIPPED_TOLERANCE if trial.optimizer.clip_norm else TOLERANCE
    for step in range(trial.steps):
        for name, loss in expected.losses[step].items():
            tolerance = TOLERANCE if step == 0 else stepped
            assert_close(f"{name} of step {step} under {layout}", actual.losses[step][name], loss, tolerance)
        norms = actual.grad_norms[step], expected.grad_norms[step]
        assert_close(f"gradient norm of step {step} under {layout}", *norms, CLIPPED_TOLERANCE)
        found, wanted = actual.kind_norms[step], expected.kind_norms[step]
        assert found.keys() == wanted.keys(), f"{layout} has other kinds of mixers than one process"
        for kind, norm in wanted.items():
            what = f"gradient norm of {kind} in step {step} under {layout}"
            assert_close(what, found[kind], norm, TOLERANCE if step == 0 else stepped)
    assert actual.weights.keys() == expected.weights.keys(), f"{layout} has other parameters than one process"
    assert actual.gradients.keys() == expected.gradients.keys(), f"{layout} trains other parameters than one process"
    for name, gradient in actual.gradients.items():
        assert_close(f"gradient of {name} under {layout}", gradient, expected.gradients[name], TOLERANCE)
    for name, weight in actual.weights.items():
        what, end = f"{name} after {trial.steps} steps under {layout}", expected.weights[name]
        if trial.optimizer.clip_norm:
            start = expected.start[name]
            rounding = trial.rounding * max(1.0, start.abs().max().item())
            assert_close(f"the way of {what}", weight - start, end - start, CLIPPED_TOLERANCE, rounding)
        else:
            assert_close(what, weight, end, TOLERANCE, trial.rounding)


def run(trial: Trial, layout: Layout) -> Outcome:
    """Trains on a pool of workers of this machine."""
    outcome: Outcome = pool(layout.processes).run(train_here, trial, layout)[0]
    return outcome


def train_here(trial: Trial, layout: Layout) -> Outcome | None:
    """One rank's part of a trial; rank 0 returns the outcome."""
    from eyas.parallel.gradients import gather_parts, main_gradient

    engine = engine_here(trial, layout)
    start = whole_weights(engine.model)
    losses, grad_norms, kind_norms, gradients = [], [], [], {}
    for step in range(trial.steps):
        losses.append(engine.train_step(microbatches_here(trial, layout, step)))
        if step == 0:
            if layout.distributed_optimizer:
                gather_parts(engine.chunks)
            trained = {name: p for name, p in engine.model.named_parameters() if p.requires_grad}
            reduced = {name: main_gradient(parameter) for name, parameter in trained.items()}
            gradients = whole(reduced, engine.model)
        grad_norms.append(engine.update(trial.optimizer.learning_rate, trial.optimizer.weight_decay)[1])
        kind_norms.append(engine.gradient_norms)
    weights = whole_weights(engine.model)
    return Outcome(losses, grad_norms, kind_norms, gradients, start, weights) if dist.get_rank() == 0 else None


def engine_here(trial: Trial, layout: Layout, *, watch: bool = False) -> Engine:
    """This rank's engine, around its stages of the trial's model with the weights of the start. `watch` has them tell
    the size of their blocks' outputs."""
    from eyas.layers.rank_model import learning_rates, stages_here
    from eyas.parallel import groups
    from eyas.parallel.engine import Engine

    groups.initialise(layout)
    spec = load_model(trial.model)
    stages = stages_here(spec, layout, trial.dtype, trial.seed, trial.sequence_length)
    for stage in stages if watch else ():
        stage.watch_outputs()
    return Engine(
        stages,
        layout,
        hidden_size=spec.hidden_size,
        dtype=trial.dtype,
        wide_gradients=trial.wide_gradients,
        tied=spec.embeds_twice,
        meta_tokens=spec.meta_tokens,
        losses=stages[0].losses,
        optimizer=trial.optimizer,
        learning_rates=learning_rates(stages),
    )


def microbatches_here(trial: Trial, layout: Layout, step: int) -> list[dict[str, Tensor]]:
    """This replica's share of a step's global batch."""
    from eyas.parallel.this_rank import replica_here

    replica = replica_here()
    rows = {name: tensor.chunk(layout.data)[replica] for name, tensor in trial.batch(step).items()}
    parts = zip(*(tensor.split(trial.microbatch) for tensor in rows.values()), strict=True)
    return [dict(zip(rows, part, strict=True)) for part in parts]


def whole_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every declared tensor, whole, as it is now."""
    return whole({name: tensor.detach() for name, tensor, *_ in held(model)}, model)


def whole(local: Mapping[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter's whole tensor from the parts that all ranks hold. Raises AssertionError where two ranks hold
    different values for one entry."""
    parts = [
        (name, weight.but(init=None), weight.local_slices(place), local[name].double().clone())
        for name, _, weight, place in held(model)
        if name in local
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, parts)
    return assemble(part for parts in everyone for part in parts)


def assemble(parts: Iterable[tuple[str, Weight, tuple[slice, ...], Tensor]]) -> dict[str, Tensor]:
    """Puts parts in their places; padding is cut off."""
    tensors: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    for name, weight, place, part in parts:
        tensor = tensors.setdefault(name, torch.full(weight.shape, float("nan"), dtype=torch.float64))
        rows[name] = weight.shape[0] - weight.padding
        known = ~tensor[place].isnan()
        difference = (tensor[place] - part)[known].abs()
        limit = CLIPPED_TOLERANCE * part.abs().max()
        assert not len(difference) or difference.max() <= limit, f"ranks that share {name} hold different values"
        tensor[place] = part
    assert not any(tensor.isnan().any() for tensor in tensors.values()), "some entries of a parameter are on no rank"
    return {name: tensor[: rows[name]] for name, tensor in tensors.items()}
