"""What holds for every mixer in one process: causality, decoding, documents, dtypes, gradients."""

# S sequence, B batch, D hidden

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer
from eyas.layers.testing.case import Case, decode, documents, one_by_one, output, rows_of_documents
from eyas.layers.testing.compare import TOLERANCE, assert_close, assert_equal_results, gradients
from eyas.parallel.context import Context

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
RATIO = 10
STEPS = tuple(1e-4 / RATIO**shorter for shorter in range(4))
"""Of finite differences. Long ones suffer from curvature and short ones from rounding: the best counts, of them and of
what each two of them in a row give without the second order of curvature (Richardson 1911)."""
DERIVATIVE_TOLERANCE = 1e-6


def token_changes_nothing_before_it(case: Case) -> None:
    """Other tokens from some place on leave all outputs before that place as they were, to rounding."""
    module, x_SBD, other_SBD = case.module(), case.x(), case.x(seed=1)
    contexts = [Context()]
    if module.config.carries_documents:
        contexts.append(Context(documents_SB=documents(case.length, case.batch, case.seed)))
    for context in contexts:
        y_SBD = output(module, x_SBD, context)
        assert y_SBD.shape == x_SBD.shape, f"the output has shape {tuple(y_SBD.shape)}, not {tuple(x_SBD.shape)}"
        for changed in range(1, case.length):
            mixed_SBD = torch.cat([x_SBD[:changed], other_SBD[changed:]])
            before = output(module, mixed_SBD, context)[:changed]
            assert_close(f"the output before token {changed}, the first that changed,", before, y_SBD[:changed])


def decoding_equals_forward(case: Case) -> None:
    """`step` after `step` gives what `forward` gives for the whole sequence."""
    module, x_SBD = case.module(), case.x()
    skip_unless_it_decodes(module)
    assert_close(
        "the output token by token", decode(module, x_SBD)[0], output(module, x_SBD, Context()), rounding=TOLERANCE
    )


def step_leaves_its_state(case: Case) -> None:
    """`step` makes a new state and changes nothing of the one it was given, so that a text can go on in two ways."""
    module, x_SBD = case.module(), case.x()
    skip_unless_it_decodes(module)
    if not module.config.sees_sequence:
        pytest.skip(f"{module.config.kind} has no state")
    state = module.initial_state(case.batch)
    for token, x_BD in enumerate(x_SBD):
        y_BD, after = module.step(x_BD, state, Context())
        module.step(-x_BD, state, Context())
        again_BD, _ = module.step(x_BD, state, Context())
        assert torch.equal(again_BD, y_BD), f"step changes its state: token {token} again gives another output"
        state = after


def documents_are_kept_apart(case: Case) -> None:
    """Documents packed into rows give what each gives alone, with all gradients; a mixer that carries none refuses."""
    module, x_SBD = case.module(), case.x().requires_grad_()
    documents_SB = documents(case.length, case.batch, case.seed)
    context = Context(documents_SB=documents_SB)
    if module.config.carries_documents:
        packed = output(module, x_SBD, context)
        assert_equal_results(packed, one_by_one(module, x_SBD, documents_SB), module, x_SBD)
    else:
        with pytest.raises(ConfigError, match=module.config.kind):
            output(module, x_SBD, context)


def no_document_leaks(case: Case) -> None:
    """A document's outputs keep every bit when all tokens of all other documents change, and have a gradient of exactly
    zero for them. Bits keep to rounding where tokens choose their experts: products of another size round otherwise."""
    module, x_SBD, other_SBD = case.module(), case.x().requires_grad_(), case.x(seed=1)
    if not module.config.carries_documents:
        pytest.skip(f"{module.config.kind} refuses documents")
    documents_SB = documents(case.length, case.batch, case.seed)
    context = Context(documents_SB=documents_SB)
    y_SBD = output(module, x_SBD, context)
    for row, part in rows_of_documents(documents_SB):
        where = f"tokens {part.start} to {part.stop - 1} of row {row} are a document of their own, but"
        mixed_SBD = other_SBD.clone()
        mixed_SBD[part, row] = x_SBD[part, row]
        again_SBD, what = output(module, mixed_SBD, context), f"{where} their outputs change with the other documents"
        if module.config.owns_tokens:
            assert_close(what, again_SBD[part, row], y_SBD[part, row], rounding=TOLERANCE)
        else:
            assert torch.equal(again_SBD[part, row], y_SBD[part, row]), what
        (gradient,) = torch.autograd.grad(y_SBD[part, row].sum(), x_SBD, retain_graph=True)
        gradient[part, row] = 0.0
        assert not gradient.any(), f"{where} their outputs have a gradient for the other documents"


def results_have_the_dtype_of_the_input(case: Case) -> None:
    """In every dtype that a model computes in, outputs have it, gradients have that of their weights, which is float32
    or more where the declaration keeps it, and all are finite."""
    for dtype in DTYPES:
        module, x_SBD = case.module(dtype=dtype), case.x(dtype=dtype).requires_grad_()
        y_SBD = output(module, x_SBD, Context())
        found = {"the output": (y_SBD, dtype)}
        if decodes(module):
            found["the output token by token"] = (decode(module, x_SBD)[0], dtype)
        for name, gradient in gradients(y_SBD.sum(), module, x_SBD).items():
            weight = module.declared.get(name)
            wide = weight is not None and weight.float32
            found[f"the gradient of {name}"] = (gradient, torch.promote_types(dtype, torch.float32) if wide else dtype)
        for what, (tensor, expected) in found.items():
            assert tensor.dtype is expected, f"{what} is {tensor.dtype}, not {expected}, in a model of {dtype}"
            assert tensor.isfinite().all(), f"{what} is not finite in a model of {dtype}"


def gradients_are_derivatives(case: Case) -> None:
    """Each weight's gradient, and the input's, against a central difference along a random direction."""
    module, x_SBD = case.module(), case.x().requires_grad_()
    factor = case.x(seed=2)

    def loss() -> Tensor:
        return (output(module, x_SBD, Context()) * factor).sum()

    found = gradients(loss(), module, x_SBD)
    variables = {**dict(module.named_parameters()), "input 0": x_SBD}
    unused = [name for name in variables if name not in found and name != "output_bias"]
    assert not unused, f"no gradient reaches {', '.join(unused)}"
    for name, gradient in found.items():
        variable = variables[name]
        direction = torch.randn(
            variable.shape, generator=torch.Generator().manual_seed(case.seed), dtype=variable.dtype
        )
        exact = (gradient * direction).sum()
        slopes = [slope(loss, variable, direction, step) for step in STEPS]
        slopes += [(RATIO**2 * short - long) / (RATIO**2 - 1) for long, short in pairwise(slopes)]
        best = min(slopes, key=lambda numeric: abs(numeric - exact))
        assert_close(f"the derivative along {name}", exact, best, DERIVATIVE_TOLERANCE, rounding=DERIVATIVE_TOLERANCE)


@torch.no_grad()
def slope(loss: Callable[[], Tensor], variable: Tensor, direction: Tensor, step: float) -> Tensor:
    """Central difference of a loss along a direction of one of its variables, which is put back."""
    start = variable.clone()
    variable.copy_(start + step * direction)
    above = loss()
    variable.copy_(start - step * direction)
    below = loss()
    variable.copy_(start)
    return (above - below) / (2 * step)


def decodes(module: Mixer) -> bool:
    """Whether the mixer defines `step`."""
    return type(module).step is not Mixer.step


def skip_unless_it_decodes(module: Mixer) -> None:
    """Skips the test of a mixer without `step`."""
    if not decodes(module):
        pytest.skip(f"{module.config.kind} defines no step, so that models with it train but do not generate")
