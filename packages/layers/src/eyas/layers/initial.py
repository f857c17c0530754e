"""Initial values. Every logical tensor draws from its own seed, so that no layout changes the model."""

import hashlib
import math

import torch
from torch import Generator, Tensor, nn

from eyas.core.errors import ConfigError
from eyas.core.mixer import held
from eyas.core.weights import Initializer, Weight


def initialise(model: nn.Module, seed: int, init_std: float, hidden_std: float | None = None) -> None:
    """Fills every declared tensor of `model` with this rank's part of the whole, which is drawn in float32 from a
    generator seeded by `seed` and the tensor's name; `hidden_std` is the spread of the matrices inside blocks,
    where it is another."""
    with torch.no_grad():
        for name, part, weight, place in held(model):
            whole = torch.zeros(weight.shape, dtype=torch.float32)
            fill = weight.init or normal(init_std if hidden_std is None or not is_hidden(name, weight) else hidden_std)
            fill(whole[: weight.shape[0] - weight.padding], Generator().manual_seed(seed_of(seed, name)))
            part.copy_(whole[weight.local_slices(place)])


OUTSIDE = ("embedding.", "head.", "meta_tokens")
"""Where the names of weights begin that are in no block."""


def is_hidden(name: str, weight: Weight) -> bool:
    """Whether it is a matrix inside a block: one that reads as many entries as the model is wide, or about."""
    return weight.init is None and len(weight.shape) > 1 and not name.startswith(OUTSIDE)


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for the tensor called `name` in a run seeded with `seed`."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def normal(std: float) -> Initializer:
    """Normal with mean 0."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def uniform(bound: float) -> Initializer:
    """Uniform between -bound and bound."""
    return lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator)


def ones(tensor: Tensor, generator: Generator) -> None:
    """Norm weights and skip connections."""
    tensor.fill_(1.0)


def zeros(tensor: Tensor, generator: Generator) -> None:
    """Biases."""
    tensor.zero_()


def log_uniform(low: float, high: float) -> Initializer:
    """Logarithm of a uniform draw: Mamba-2's A_log."""

    def fill(tensor: Tensor, generator: Generator) -> None:
        tensor.uniform_(low, high, generator=generator).log_()

    return fill


def log_of_counting(tensor: Tensor, generator: Generator) -> None:
    """log 1, log 2, log 3, ... in every row: Mamba's A_log, S4D's real part (Gu et al., 2022)."""
    tensor.copy_(torch.arange(1, tensor.shape[-1] + 1).log())


def check_time_steps(time_step_min: float, time_step_max: float, time_step_floor: float) -> None:
    """Raises ConfigError for bounds of initial time steps, `inverse_softplus_of_log_uniform`'s, that leave none."""
    if not 0 < time_step_min <= time_step_max:
        raise ConfigError(f"time_step_min={time_step_min} must be above 0 and at most time_step_max={time_step_max}")
    if not 0 <= time_step_floor <= time_step_max:
        raise ConfigError(
            f"time_step_floor={time_step_floor} must be at least 0 and at most time_step_max={time_step_max}; "
            "it bounds the initial values from below"
        )


def inverse_softplus_of_log_uniform(low: float, high: float, floor: float) -> Initializer:
    """Bias whose softplus is log-uniform between low and high, at least floor: Mamba's dt_bias (Gu and Dao, 2023)."""

    def fill(tensor: Tensor, generator: Generator) -> None:
        tensor.uniform_(math.log(low), math.log(high), generator=generator).exp_().clamp_(min=floor)
        tensor.copy_(tensor + torch.log(-torch.expm1(-tensor)))

    return fill
