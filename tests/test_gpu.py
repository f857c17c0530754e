"""What needs a GPU: the same model and the same run on GPU and CPU, training in bfloat16, and the GPU's kernels against
the float64 oracle."""

import csv
import math
from itertools import pairwise
from statistics import fmean

import pytest
import torch
from command import TINY, eyas, write_corpus
from models import falcon_h1

from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.experts import grouped_linear
from eyas.layers.model import HybridLM
from eyas.layers.ssd import ssd
from eyas.parallel.adam_state import MOMENTS
from eyas.parallel.context import Context
from eyas.parallel.offload import MomentsOnHost

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible to torch"),
]


def loss_and_gradients(device):
    data = falcon_h1()
    data["layers"]["ssm"]["kernel"] = "chunked"  # mamba-ssm's multiplies in less than float32
    model = HybridLM(load_model(data), Context(Placement(device=device))).initialise(0)
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


def curve(folder, name, *overrides, **environment):
    """Losses of a run through the command line."""
    trained = eyas("train", *TINY, f"name={name}", "trainer.global_batch=8", *overrides, folder=folder, **environment)
    assert trained.returncode == 0, trained.stderr
    (metrics,) = folder.glob(f"runs/{name}/*/metrics.csv")
    with metrics.open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream)]


def test_a_run_on_a_gpu_follows_that_on_a_cpu(tmp_path):
    """In float32, to what Adam makes in ten steps of sums in another order; by the scan that multiplies in float32 on
    both, as mamba-ssm's does not."""
    write_corpus(tmp_path)
    short = "trainer.max_steps=10", "model.layers.ssm.kernel=chunked"
    here, expected = curve(tmp_path, "gpu", *short), curve(tmp_path, "cpu", *short, CUDA_VISIBLE_DEVICES="")
    assert len(here) == 10
    assert here[0] == pytest.approx(expected[0], rel=1e-5)
    assert here == pytest.approx(expected, rel=1e-3)


def test_bfloat16_is_stable_for_200_steps(tmp_path):
    """It learns as float32 does, and no step throws it back."""
    write_corpus(tmp_path)
    assert_stable(*(curve(tmp_path, name, "trainer.max_steps=200", f"trainer.precision={name}") for name in PRECISIONS))


def test_moments_on_the_host_change_no_step_also_of_a_resumed_run(tmp_path):
    write_corpus(tmp_path)
    usual = "trainer.max_steps=6", "trainer.precision=bfloat16", "trainer.checkpoint_interval=3"
    expected = curve(tmp_path, "beside", *usual)
    assert curve(tmp_path, "host", *usual, "optimizer.cpu_offload=1") == expected
    (begun,) = tmp_path.glob("runs/host/*")
    assert eyas("resume", begun, "trainer.max_steps=9", folder=tmp_path).returncode == 0


def test_moments_lie_in_memory_that_is_pinned_between_steps():
    weight = torch.ones(1000, device="cuda", requires_grad=True)
    adam = torch.optim.AdamW([weight], fused=True)
    MomentsOnHost(adam, 1.0)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        adam.step()
        moments = [adam.state[weight][name] for name in MOMENTS]
        assert all(moment.is_pinned() and moment.device.type == "cpu" and moment.all() for moment in moments)
    adam.load_state_dict(adam.state_dict())
    assert all(adam.state[weight][name].is_pinned() for name in MOMENTS)


PRECISIONS = "bfloat16", "float32"


def assert_stable(narrow, wide):
    """Raises AssertionError where the losses `narrow` end above `wide` ones, or rise on the way."""
    assert len(narrow) == len(wide) == 200
    assert all(map(math.isfinite, narrow))
    assert fmean(narrow[-20:]) < 0.5 * narrow[0]
    assert fmean(narrow[-20:]) == pytest.approx(fmean(wide[-20:]), rel=0.1)
    means = [fmean(narrow[first : first + 20]) for first in range(0, 200, 20)]
    assert all(after < 1.1 * before for before, after in pairwise(means)), means


@pytest.mark.parametrize("kernel", ["chunked", "mamba_ssm"])
def test_gpu_kernels_equal_the_float64_recurrence(kernel):
    if kernel == "mamba_ssm":
        pytest.importorskip("mamba_ssm")
    draw = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(128, 2, 4, 64, generator=draw),
        torch.rand(128, 2, 4, generator=draw) * 0.1,
        -torch.rand(4, generator=draw) * 8,
        torch.randn(128, 2, 1, 64, generator=draw),
        torch.randn(128, 2, 1, 64, generator=draw),
        torch.randn(4, generator=draw),
    )
    documents_SB = (torch.arange(128) >= 90).long()[:, None].expand(-1, 2)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    fast = [tensor.cuda().requires_grad_() for tensor in inputs]
    expected, _ = ssd(*exact, kernel="sequential", documents_SB=documents_SB)
    actual, _ = ssd(*fast, kernel=kernel, documents_SB=documents_SB.cuda())
    expected.square().sum().backward()
    actual.square().sum().backward()
    names = ["y", "x", "dt", "A", "B", "C", "D"]
    for name, ours, theirs in zip(names, [actual, *fast], [expected, *exact], strict=True):
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
