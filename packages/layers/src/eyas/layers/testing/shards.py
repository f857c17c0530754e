"""What holds for every mixer on several processes: no layout changes its training, its checkpoints load on any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import reject

from eyas.core.errors import ConfigError, LayoutError
from eyas.core.weights import Coordinates
from eyas.layers.testing.case import RANKS, Case
from eyas.layers.testing.checkpoints import assert_checkpoint_loads
from eyas.layers.testing.layouts import (
    Trial,
    assert_equal_outcomes,
    run,
)
from eyas.parallel.layout import Layout

LAYOUTS = ("tensor", "tensor and sequence", "data", "pipeline", "context", "exchanged heads")
SEQUENCE = 12
"""Tokens of a row; any number of ranks that is tried divides it."""


def layout_changes_nothing(case: Case, kind: str, *, drawn: bool) -> None:
    """Trains a model of two such layers under a layout of this kind and in one process: losses, gradients, weights. A
    mixer that does not carry context refuses ranks that share sequences."""
    config = case.config
    if kind == "exchanged heads" and not config.exchanges_heads:
        pytest.skip(f"{config.kind} exchanges no heads")
    split = layout(case, kind, drawn)
    trial = Trial(
        model=model(case),
        sequence_length=SEQUENCE,
        documents=split.context > 1 and config.carries_documents,
        seed=case.seed,
    )
    if kind == "context" and not config.carries_context:
        with pytest.raises(ConfigError, match=config.kind):
            run(trial, split)
        return
    assert_equal_outcomes(run(trial, split), run(trial, Layout()), trial, split)


def checkpoint_loads_on_another_layout(case: Case, *, drawn: bool) -> None:
    """What one process saved, more of them load bit for bit and go on with as if nothing had happened."""
    trial = Trial(model=model(case), sequence_length=SEQUENCE, seed=case.seed)
    assert_checkpoint_loads(trial, Layout(), layout(case, "tensor", drawn))


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
    if kind == "context":
        return Layout(context=2)
    if kind == "exchanged heads":
        return exchanging(case, drawn)
    several = case.ranks[1:]
    if not several:
        if drawn:
            reject()
        case.config.check_split(case.hidden_size, Coordinates.of(RANKS[1]))
    return Layout(tensor=several[0], sequence=kind == "tensor and sequence" or case.config.owns_tokens)


def exchanging(case: Case, drawn: bool) -> Layout:
    """Two ranks that share sequences by exchanging heads."""
    split = Layout(context=2, context_exchange="alltoall")
    try:
        case.config.check_exchange(case.hidden_size, split.tensor, split.context)
    except LayoutError:
        if drawn:
            reject()
        raise
    return split
