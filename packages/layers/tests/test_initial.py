"""Initial values: those that were asked for, on any layout."""

import math

import models
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers import initial
from eyas.layers.model import HybridLM, Stage
from eyas.parallel.context import Context

MANY = 200_000


def drawn(fill, size=MANY, seed=0):
    tensor = torch.zeros(size)
    fill(tensor, torch.Generator().manual_seed(seed))
    return tensor.double()


@given(
    tensor=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2]),
    tied=st.booleans(),
    vocab=st.integers(45, 55),
    seed=st.integers(0, 99),
)
def test_a_layout_never_changes_the_initial_values(tensor, groups, tied, vocab, seed):
    spec = load_model(models.falcon_h1(groups=groups, tied=tied, vocab=vocab))
    whole = dict(HybridLM(spec).initialise(seed).named_parameters())
    for rank in range(tensor):
        for blocks in (range(2), range(2, 4)):
            stage = Stage(blocks, blocks.start == 0, blocks.stop == 4)
            part = HybridLM(spec, Context(Placement(tensor_rank=rank, tensor=tensor)), stage).initialise(seed)
            for name, parameter in part.named_parameters():
                declared, place = parameter.declared
                padded = F.pad(whole[name].t(), (0, declared.padding)).t() if declared.padding else whole[name]
                assert torch.equal(parameter, padded[declared.local_slices(place)]), name


def test_every_name_and_every_seed_draws_other_values():
    spec = load_model(models.falcon_h1())
    values = [
        tuple(parameter.flatten()[:8].tolist())
        for seed in (0, 1)
        for name, parameter in HybridLM(spec).initialise(seed).named_parameters()
        if parameter.std() > 0 and parameter.numel() > 8
    ]
    assert len(values) > 40
    assert len(set(values)) == len(values)


def test_a_seed_draws_the_same_values_again():
    spec = load_model(models.falcon_h1())
    first, second = (HybridLM(spec).initialise(3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_matrices_have_the_models_standard_deviation():
    spec = load_model(models.falcon_h1(vocab=2000))
    weight = HybridLM(spec).initialise(0).embedding.weight
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert weight.std().item() == pytest.approx(0.05, rel=0.02)


def test_normal():
    values = drawn(initial.normal(0.3))
    assert values.mean().item() == pytest.approx(0, abs=0.005)
    assert values.std().item() == pytest.approx(0.3, rel=0.01)
    assert (values.abs() < 0.3).double().mean().item() == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)


def test_uniform():
    values = drawn(initial.uniform(0.5))
    assert -0.5 <= values.min() < -0.499 < 0.499 < values.max() <= 0.5
    assert values.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.01)


def test_constants():
    assert (drawn(initial.ones, 5) == 1).all()
    assert (drawn(initial.zeros, 5) == 0).all()


def test_log_uniform_is_the_logarithm_of_a_uniform_draw():
    values = drawn(initial.log_uniform(1, 16)).exp()
    assert 1 <= values.min() < 1.01
    assert 15.99 < values.max() <= 16.001
    assert values.mean().item() == pytest.approx(8.5, rel=0.01)


def test_the_time_steps_are_log_uniform_above_their_floor():
    values = F.softplus(drawn(initial.inverse_softplus_of_log_uniform(1e-3, 0.1, 4e-3)))
    assert values.min().item() == pytest.approx(4e-3, rel=1e-3)
    assert values.max().item() == pytest.approx(0.1, rel=1e-2)
    assert (values < 4.001e-3).double().mean().item() == pytest.approx(math.log(4) / math.log(100), abs=0.01)
    assert (values < 1e-2).double().mean().item() == pytest.approx(0.5, abs=0.01)
