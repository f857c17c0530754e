"""What needs a GPU: the same model on GPU and CPU, and the GPU's kernels against the float64 oracle."""

import pytest
import torch
from models import falcon_h1

from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.experts import grouped_linear
from eyas.layers.model import HybridLM
from eyas.layers.ssd import ssd
from eyas.parallel.context import Context

pytestmark = pytest.mark.gpu


def loss_and_gradients(device):
    model = HybridLM(load_model(falcon_h1()), Context(Placement(device=device))).initialise(0)
    draw = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, 50, (2, 32), generator=draw).to(device) for _ in range(2))
    loss = model(tokens, labels).mean()
    loss.backward()
    return loss.item(), {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}


def test_a_gpu_computes_what_a_cpu_computes():
    (loss, gradients), (expected, expected_gradients) = loss_and_gradients("cuda"), loss_and_gradients("cpu")
    assert loss == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients.items():
        largest = expected_gradients[name].abs().max()
        assert (gradient - expected_gradients[name]).abs().max() <= 1e-3 * largest, name


@pytest.mark.parametrize("kernel", ["chunked", "mamba_ssm"])
def test_gpu_kernels_equal_the_float64_recurrence(kernel):
    if kernel == "mamba_ssm":
        pytest.importorskip("mamba_ssm")
    draw = torch.Generator().manual_seed(0)
    x, dt, A, B, C = (
        torch.randn(128, 2, 4, 64, generator=draw),
        torch.rand(128, 2, 4, generator=draw) * 0.1,
        -torch.rand(4, generator=draw) * 8,
        torch.randn(128, 2, 1, 64, generator=draw),
        torch.randn(128, 2, 1, 64, generator=draw),
    )
    exact = [tensor.double().requires_grad_() for tensor in (x, dt, A, B, C)]
    fast = [tensor.cuda().requires_grad_() for tensor in (x, dt, A, B, C)]
    expected, _ = ssd(*exact, kernel="sequential")
    actual, _ = ssd(*fast, kernel=kernel)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for name, ours, theirs in zip(["y", "x", "dt", "A", "B", "C"], [actual, *fast], [expected, *exact], strict=True):
        a, e = (ours, theirs) if name == "y" else (ours.grad, theirs.grad)
        assert (a.double().cpu() - e).norm() <= 5e-3 * e.norm(), name


@pytest.mark.parametrize("kernel", ["grouped", "transformer_engine"])
def test_the_experts_grouped_product_equals_the_loop(kernel):
    """In bfloat16, whose products a GPU sums in float32: both round each result once."""
    if kernel == "transformer_engine":
        pytest.importorskip("transformer_engine.pytorch")
    draw, counts = torch.Generator().manual_seed(0), [40, 0, 17, 71]
    x, weight, dy = (
        torch.randn(*shape, generator=draw).bfloat16().cuda() for shape in [(128, 64), (4, 96, 64), (128, 96)]
    )
    results = []
    for name in (kernel, "loop"):
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = grouped_linear(inputs[0], counts, inputs[1], name)
        results.append([y, *torch.autograd.grad(y, inputs, dy)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
