"""Proof that a checkpoint belongs to no layout: what one saves, any other loads bit for bit, and goes on alike."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from eyas.layers.testing.compare import TOLERANCE, assert_close
from eyas.layers.testing.layouts import Trial, engine_here, microbatches_here, whole_weights
from eyas.parallel import checkpoint
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

if TYPE_CHECKING:
    from eyas.parallel.engine import Engine

Weights = dict[str, Tensor]


def assert_checkpoint_loads(trial: Trial, first: Layout, second: Layout) -> None:
    """Raises AssertionError where a checkpoint that `first` saved is not, bit for bit, what `second` loads, or training
    goes on otherwise from it."""
    with TemporaryDirectory(prefix="eyas-") as folder:
        path = Path(folder, "step-1")
        saved, expected = pool(first.processes).run(save_here, trial, first, path)[0]
        loaded, actual = pool(second.processes).run(load_here, trial, second, path)[0]
    assert saved.keys() == loaded.keys(), "saved and loaded weights have other names"
    for name, weight in saved.items():
        assert torch.equal(loaded[name], weight), f"{name} is not what was saved after loading it under {second}"
    for name, weight in expected.items():
        assert_close(
            f"{name} one step after loading it under {second}", actual[name], weight, 10 * TOLERANCE, trial.rounding
        )


def save_here(trial: Trial, layout: Layout, path: Path) -> tuple[Weights, Weights] | None:
    """One rank's part: trains a step, saves and trains another; rank 0 returns the weights after each."""
    engine = engine_here(trial, layout)
    step_here(engine, trial, layout, 0)
    saved = whole_weights(engine.model)
    checkpoint.save(engine.sharded_state(loading=False), path)
    step_here(engine, trial, layout, 1)
    after = whole_weights(engine.model)
    return (saved, after) if dist.get_rank() == 0 else None


def load_here(trial: Trial, layout: Layout, path: Path) -> tuple[Weights, Weights] | None:
    """One rank's part: loads over spoiled weights and trains a step; rank 0 returns the weights before and after."""
    engine = engine_here(trial, layout)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.add_(1.0)
    state = checkpoint.load(engine.sharded_state(loading=True), path)
    engine.model.load_state_dict(state["model"])
    engine.load_optimizer(state["optimizer"])
    loaded = whole_weights(engine.model)
    step_here(engine, trial, layout, 1)
    after = whole_weights(engine.model)
    return (loaded, after) if dist.get_rank() == 0 else None


def step_here(engine: Engine, trial: Trial, layout: Layout, step: int) -> None:
    """One training step of this rank."""
    engine.train_step(microbatches_here(trial, layout, step))
    engine.update(trial.optimizer.learning_rate, trial.optimizer.weight_decay)
