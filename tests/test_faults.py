"""Proofs that could not fail would prove nothing: faults of the kind that parallel code has, and all are found."""

from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from models import BALANCED, MIXERS, PENALISED, falcon_h1, holding, mixture

from eyas.core.mixer import held
from eyas.layers.testing import STEADY, Trial, assert_equal_outcomes, run, train_here
from eyas.parallel import collectives, experts, gradients
from eyas.parallel.after_batch import AfterBatch
from eyas.parallel.layout import Layout
from eyas.parallel.pieces import Pieces
from eyas.parallel.pool import pool
from eyas.parallel.stage import StageModule

ATTENTION = {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4}
WINDOW = {"kind": "attention", "num_heads": 4, "head_dim": 4, "window": 3}
MAMBA2 = {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "num_groups": 2, "chunk_size": 4}

SUM, MARK, STAGE = gradients.sum_over_copies, gradients.mark, StageModule.__init__
GATHER, BEGIN_GATHER = collectives.gather_from_context_ranks, collectives.begin_gather_sequence


def unchanged(first, *_):
    return first


def without_second_argument(self, value):
    return value


def twice(model, layout):
    SUM(model, layout)
    SUM(model, layout)


def among_all(copies):
    return collectives.tensor_group()


def stale(x_sBD, first=[]):  # noqa: B006  (the list is what makes it stale)
    """What was gathered first, ever after."""
    first.append(BEGIN_GATHER(x_sBD)())
    return lambda: first[0]


def like_everything_else(model, layout, **tied):
    MARK(model, layout, **tied)
    for part in held(model):
        part.tensor.allreduce = True


def untied(self, model, config, *, first, last, tied):
    STAGE(self, model, config, first=first, last=last, tied=False)


def no_halo(pieces, x_SBC, tokens):
    return x_SBC.new_zeros(tokens, *x_SBC.shape[1:])


def no_carry(pieces, state, *_):
    return torch.zeros_like(state)


def of_the_first_rank(pieces, x_H):
    return x_H.chunk(pieces.mine.ranks)[0]


def half_of_the_gradient(x):
    return GATHER(x).detach() + (GATHER(x) - GATHER(x.detach())) / 2


def no_gradient(x):
    return GATHER(x.detach())


@dataclass
class Fault:
    """A function that is replaced while a layout trains."""

    where: Any
    name: str
    replacement: Any
    layout: Layout
    model: dict[str, Any] = field(default_factory=falcon_h1)


TENSOR, SEQUENCE = Layout(tensor=2), Layout(tensor=2, sequence=True)
BY_HEADS = Layout(context=2, context_exchange="alltoall")
FAULTS = {
    "gradients of copies stay parts": Fault(gradients, "sum_over_copies", unchanged, TENSOR),
    "gradients of copies are summed twice": Fault(gradients, "sum_over_copies", twice, TENSOR),
    "gradients of copies are summed over the wrong ranks": Fault(
        gradients, "copies_group", among_all, Layout(tensor=4), falcon_h1(groups=2, kv_heads=2)
    ),
    "the norm sees its own heads alone": Fault(collectives, "sum_over_copies", unchanged, TENSOR),
    "time steps see their own channels alone": Fault(
        collectives, "sum_over_copies", unchanged, TENSOR, holding(MIXERS["mamba1"])
    ),
    "the input's gradient stays a part": Fault(collectives, "copy_to_tensor_ranks", unchanged, TENSOR),
    "what is gathered again is stale": Fault(collectives, "begin_gather_sequence", stale, SEQUENCE),
    "a tied embedding's gradients stay apart": Fault(
        StageModule, "__init__", untied, Layout(pipeline=2), falcon_h1(tied=True)
    ),
    "experts' gradients are added up like everything else's": Fault(
        gradients, "mark", like_everything_else, Layout(data=2, expert=2), mixture()
    ),
    "the selection bias counts one replica's tokens": Fault(
        AfterBatch, "_total", without_second_argument, Layout(data=2), mixture(**BALANCED)
    ),
    "balancing losses count one rank's tokens": Fault(experts, "summed", unchanged, SEQUENCE, mixture(**PENALISED)),
    "the convolution begins with nothing": Fault(Pieces, "before", no_halo, Layout(context=2), holding(MAMBA2)),
    "the state begins with nothing": Fault(Pieces, "carried", no_carry, Layout(context=2), holding(MAMBA2)),
    "the delta rule begins with nothing": Fault(
        Pieces, "carried", no_carry, Layout(context=2), holding(MIXERS["gated_delta_net"])
    ),
    "a state is carried into another document": Fault(
        Pieces, "_unbroken_JB", property(lambda pieces: None), Layout(context=2), holding(MAMBA2)
    ),
    "a state is carried over the edge of a document": Fault(
        Pieces, "_continued_JB", property(lambda pieces: None), Layout(context=2), holding(MAMBA2)
    ),
    "keys have no gradient": Fault(
        collectives, "gather_from_context_ranks", no_gradient, Layout(context=2), holding(ATTENTION)
    ),
    "keys have half of their gradient": Fault(
        collectives, "gather_from_context_ranks", half_of_the_gradient, Layout(context=2), holding(ATTENTION)
    ),
    "every piece begins at the front": Fault(
        Pieces, "firsts", property(lambda pieces: (0, 0)), Layout(context=2), holding(WINDOW)
    ),
    "exchanged heads have other heads' taps": Fault(
        Pieces, "own_heads", of_the_first_rank, BY_HEADS, holding(MIXERS["gated_delta_net"])
    ),
    "exchanged heads have other heads' decays": Fault(
        Pieces, "own_heads", of_the_first_rank, BY_HEADS, holding(MIXERS["linear_attention"])
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    layout = FAULTS[fault].layout
    trial = Trial(model=FAULTS[fault].model, documents=layout.context > 1)
    with pytest.raises(AssertionError, match="differs|hold different values"):
        assert_equal_outcomes(outcome(trial, layout, fault), run(trial, Layout()), trial, layout)


def outcome(trial, layout, fault):
    return pool(layout.processes).run(train_with_fault, trial, layout, fault)[0]


def train_with_fault(trial, layout, fault):
    """The trial with a function replaced, in one worker."""
    found = FAULTS[fault]
    with patch.object(found.where, found.name, found.replacement):
        return train_here(trial, layout)


def test_any_weight_that_a_clipped_step_moved_too_far_is_found():
    """By one part in fifty, although such a step is short beside most weights."""
    trial, longer = (Trial(model=falcon_h1(), optimizer=replace(STEADY, clip_norm=norm)) for norm in (0.1, 0.102))
    expected, further = run(trial, Layout()), run(longer, Layout())
    for name in expected.weights:
        actual = replace(expected, weights=expected.weights | {name: further.weights[name]})
        with pytest.raises(AssertionError, match=f"the way of {name} after 2 steps"):
            assert_equal_outcomes(actual, expected, trial, Layout())
