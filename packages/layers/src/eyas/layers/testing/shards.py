"""What holds for every mixer on several processes: no layout changes its training, its checkpoints load on any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from hypothesis import reject
from torch import Tensor

from eyas.core.weights import Coordinates
from eyas.layers.testing.case import RANKS, Case
from eyas.layers.testing.compare import TOLERANCE, assert_close
from eyas.layers.testing.layouts import (
    Trial,
    assert_layout_changes_nothing,
    engine_here,
    microbatches_here,
    whole_weights,
)
from eyas.parallel import checkpoint
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

if TYPE_CHECKING:
    from eyas.parallel.engine import Engine

LAYOUTS = ("tensor", "tensor and sequence", "data", "pipeline")
SEQUENCE = 12
"""Tokens of a row; any number of ranks that is tried divides it."""


def layout_changes_nothing(case: Case, kind: str, *, drawn: bool) -> None:
    """Trains a model of two such layers under a layout of this kind and in one process: losses, gradients, weights."""
    assert_layout_changes_nothing(model(case), layout(case, kind, drawn), sequence_length=SEQUENCE, seed=case.seed)


def checkpoint_loads_on_another_layout(case: Case, *, drawn: bool) -> None:
    """What one process saved, more of them load bit for bit and go on with as if nothing had happened."""
    trial = Trial(model=model(case), sequence_length=SEQUENCE, seed=case.seed)
    split = layout(case, "tensor", drawn)
    with TemporaryDirectory(prefix="eyas-") as folder:
        path = Path(folder, "step-1")
        saved, expected = pool(1).run(save_here, trial, Layout(), path)[0]
        loaded, actual = pool(split.processes).run(load_here, trial, split, path)[0]
    assert saved.keys() == loaded.keys(), "saved and loaded weights have other names"
    for name, weight in saved.items():
        assert torch.equal(loaded[name], weight), f"{name} is not what was saved after loading it under {split}"
    for name, weight in expected.items():
        assert_close(
            f"{name} one step after loading it under {split}", actual[name], weight, 10 * TOLERANCE, trial.rounding
        )


def model(case: Case) -> dict[str, Any]:
    """The `model` group: a stack of two such layers."""
    layers: dict[str, Mapping[str, Any]] = {"mixer": case.options}
    sizes = {"hidden_size": case.hidden_size, "vocab_size": 50, "init_std": 0.2}
    return {**sizes, "layers": layers, "pattern": ["mixer"], "repeat": 2}


def layout(case: Case, kind: str, drawn: bool) -> Layout:
    """The smallest layout of a kind that the options can be split over. Options that cannot be are drawn anew, or a
    mistake where they are given."""
    if kind == "data":
        return Layout(data=2)
    if kind == "pipeline":
        return Layout(pipeline=2)
    several = case.ranks[1:]
    if not several:
        if drawn:
            reject()
        case.config.check_split(case.hidden_size, Coordinates.of(RANKS[1]))
    return Layout(tensor=several[0], sequence=kind == "tensor and sequence" or case.config.owns_tokens)


Weights = dict[str, Tensor]


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
    assert engine.optimizer is not None
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
