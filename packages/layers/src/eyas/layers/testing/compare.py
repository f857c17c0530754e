"""How results are compared: relative to the largest entry, with a message that says what differs and by how much."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOLERANCE = 1e-9
"""Relative to the largest entry, in float64: what may differ is the order of sums."""
ROUNDING = 1e-15
"""What may stand in float64 for an entry that is exactly zero."""


def assert_close(
    what: str,
    actual: Tensor | float,
    expected: Tensor | float,
    tolerance: float = TOLERANCE,
    rounding: float = ROUNDING,
) -> None:
    """Raises AssertionError where the largest difference exceeds `tolerance` times the largest expected entry plus
    `rounding`."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    actual = torch.as_tensor(actual, dtype=torch.float64)
    assert actual.shape == expected.shape, f"{what} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    difference = (actual - expected).abs().max()
    largest = expected.abs().max()
    assert difference <= tolerance * largest + rounding, (
        f"{what} differs by {difference:.2e}, where its largest entry is {largest:.2e}"
    )


def assert_equal_results(
    actual: Tensor, expected: Tensor, module: nn.Module, x: Tensor, *, tolerance: float = TOLERANCE
) -> None:
    """Raises AssertionError unless two results are close, and so are the gradients of one random sum of each by every
    weight of `module` and by its input x."""
    assert_close("the result", actual, expected, tolerance, rounding=tolerance)
    factor = torch.randn(expected.shape, generator=torch.Generator().manual_seed(99), dtype=expected.dtype)
    got, wanted = (gradients((result * factor).sum(), module, x) for result in (actual, expected))
    assert got.keys() == wanted.keys(), f"gradients reach {sorted(got)}, not {sorted(wanted)}"
    for name, gradient in wanted.items():
        assert_close(f"the gradient of {name}", got[name], gradient, tolerance, rounding=tolerance)


def gradients(loss: Tensor, module: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss by parameter name, and of the inputs as "input 0" and so on; those that it reaches."""
    weights = dict(module.named_parameters())
    names = [*weights, *(f"input {index}" for index in range(len(inputs)))]
    found = torch.autograd.grad(loss, [*weights.values(), *inputs], allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
