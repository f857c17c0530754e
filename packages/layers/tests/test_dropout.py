"""Dropout: a share of the numbers, spread as if at random, and the same ones in the backward pass."""

import pytest
import torch

from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.dropout import Dropout, token_seeds
from eyas.layers.model import HybridLM
from eyas.parallel.context import Context

MODEL = {
    "hidden_size": 8,
    "vocab_size": 20,
    "pattern": ["ffn"],
    "repeat": 3,
    "dropout": 0.25,
    "layers": {"ffn": {"kind": "mlp", "intermediate_size": 8}},
}
B, S, D = 8, 64, 96


def kept(rate: float = 0.25, block: int = 0, seed: int = 0, first_sample: int = 0) -> torch.Tensor:
    """1 where a number stays, (S, B, D)."""
    dropout = Dropout.here(rate, token_seeds(seed, first_sample, B, S), 0, Context())
    return (dropout(block, torch.ones(S, B, D)) != 0).double()


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_the_share_is_what_was_asked_for_everywhere(rate: float) -> None:
    """To five standard deviations of its mean, along each dimension."""
    mask_SBD = kept(rate)
    for others in ((1, 2), (0, 2), (0, 1), (0, 1, 2)):
        number = mask_SBD.numel() / mask_SBD.mean(others).numel()
        deviation = 5 * (rate * (1 - rate) / number) ** 0.5
        assert (mask_SBD.mean(others) - (1 - rate)).abs().max() < deviation


def test_what_stays_is_scaled_up() -> None:
    x_SBD = torch.ones(S, B, D, dtype=torch.float64)
    dropout = Dropout.here(0.25, token_seeds(0, 0, B, S), 0, Context())
    assert dropout(0, x_SBD).unique().tolist() == [0.0, 1 / 0.75]
    assert Dropout.here(0.0, token_seeds(0, 0, B, S), 0, Context())(0, x_SBD) is x_SBD


def test_masks_of_blocks_samples_positions_channels_and_runs_have_nothing_in_common() -> None:
    """Their correlation is within five standard deviations of zero."""
    first = kept() - 0.75
    others = {
        "block": kept(block=1),
        "run": kept(seed=1),
        "step": kept(first_sample=B),
        "sample": kept().roll(1, 1),
        "position": kept().roll(1, 0),
        "channel": kept().roll(1, 2),
    }
    for name, other in others.items():
        correlation = (first * (other - 0.75)).mean() / (0.25 * 0.75)
        assert abs(correlation) < 5 / first.numel() ** 0.5, name


def test_the_gradient_passes_where_the_number_did() -> None:
    x_SBD = torch.randn(S, B, D, dtype=torch.float64, requires_grad=True)
    y_SBD = Dropout.here(0.25, token_seeds(0, 0, B, S), 0, Context())(2, x_SBD)
    y_SBD.sum().backward()
    assert x_SBD.grad is not None
    torch.testing.assert_close(x_SBD.grad * x_SBD.detach(), y_SBD.detach())


def test_evaluation_and_decoding_drop_nothing_and_training_asks_for_seeds() -> None:
    model = HybridLM(load_model(MODEL), Context(Placement(dtype=torch.float64))).initialise(0)
    plain = HybridLM(load_model({**MODEL, "dropout": 0.0}), Context(Placement(dtype=torch.float64))).initialise(0)
    tokens = torch.randint(20, (2, 6))
    with pytest.raises(ConfigError, match="dropout=0.25 needs seeds"):
        model(tokens)
    with torch.no_grad():
        assert torch.equal(model(tokens), plain(tokens))
        assert torch.equal(
            model.prefill(tokens, model.initial_state(2))[0], plain.prefill(tokens, plain.initial_state(2))[0]
        )
    dropped = model(tokens, seeds_BS=token_seeds(0, 0, 2, 6))
    assert not torch.equal(dropped, plain(tokens))
    assert torch.equal(dropped, model(tokens, seeds_BS=token_seeds(0, 0, 2, 6)))
