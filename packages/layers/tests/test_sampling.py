"""The distributions that tokens are drawn from, against their definitions."""
# V vocabulary

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.layers.sampling import Sampling

logits = st.lists(st.floats(-20, 20) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=12)
temperatures = st.floats(0.05, 5.0)


def literal(numbers, temperature, top_k, top_p):
    """One law after the other, in Python's numbers; the higher number is the likelier."""
    threshold = sorted(numbers, reverse=True)[min(top_k or len(numbers), len(numbers)) - 1]
    top = max(numbers)
    weights = [math.exp((x - top) / temperature) if x >= threshold else 0.0 for x in numbers]
    probabilities = [weight / sum(weights) for weight in weights]
    kept, together = set(), 0.0
    for index in sorted(range(len(numbers)), key=lambda index: (-numbers[index], index)):
        if together >= top_p:
            break
        kept.add(index)
        together += probabilities[index]
    return [p / together if index in kept else 0.0 for index, p in enumerate(probabilities)]


@example([0.0, 0.0, 1.0, 1e-271], 1.0, None, 0.5)
@example([0.0, 1.0, 1e-271], 1.0, 2, 1.0)
@given(logits, temperatures, st.none() | st.integers(1, 15), st.floats(0.05, 0.999) | st.just(1.0))
def test_probabilities_are_those_of_the_definition(numbers, temperature, top_k, top_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    found = sampling.probabilities(torch.tensor(numbers, dtype=torch.float64))
    expected = torch.tensor(literal(numbers, temperature, top_k, top_p), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@example([0.0, 1.175494351e-38], 0)
@given(logits, st.integers(0, 99))
def test_greedy_takes_the_likeliest_and_so_does_one_of_one(numbers, seed):
    tensor = torch.tensor(numbers)
    random = torch.Generator().manual_seed(seed)
    assert Sampling(temperature=0).token(tensor, random) == int(tensor.argmax())
    for sampling in (Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(temperature=1e-300)):
        assert tensor[sampling.token(tensor, random)] == tensor.max()


def test_draws_come_as_often_as_their_probabilities():
    sampling = Sampling(temperature=0.7, top_k=4, top_p=0.95)
    logits_V, random = torch.tensor([0.0, 1.0, 2.0, 1.5, -1.0, 0.5]), torch.Generator().manual_seed(0)
    draws = torch.tensor([sampling.token(logits_V, random) for _ in range(4000)]).bincount(minlength=6) / 4000
    expected = sampling.probabilities(logits_V).float()
    assert not draws[expected == 0].any()
    torch.testing.assert_close(draws, expected, rtol=0, atol=0.03)  # four standard deviations


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_options_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}="):
        Sampling(**options)
