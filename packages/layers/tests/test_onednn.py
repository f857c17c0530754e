"""Matrix products through oneDNN equal torch's own, in value, gradient, and what they keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eyas.layers import grouped_onednn, onednn
from eyas.layers.experts import grouped_linear
from eyas.layers.linear import linear

machine_is_faster = onednn.is_faster
multiplied = pytest.mark.usefixtures("product", "everywhere")
ROUNDING = 2e-6
"""Of the largest entry: a few roundings of float32, over sums of up to forty terms."""


@pytest.fixture(scope="module")
def everywhere():
    """Every product in float32 is oneDNN's, whatever its size and the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onednn, "LEAST", 1)
        patch.setattr(grouped_onednn, "LEAST", 0)
        patch.setattr(onednn, "is_faster", lambda: True)
        yield


@pytest.fixture(scope="module")
def product():
    """What multiplies through it is skipped where torch has no oneDNN, as on some machines without x86; where torch has
    it under another name, it fails."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")


def drawn(shape: tuple[int, int], form: str, draw: torch.Generator) -> Tensor:
    """A matrix, in memory of its own or a view of another's."""
    rows, columns = shape
    match form:
        case "rows":
            return torch.randn(rows, columns, generator=draw)
        case "columns":
            return torch.randn(columns, rows, generator=draw).t()
        case "part":
            return torch.randn(rows, columns + 3, generator=draw)[:, 2:-1]
        case "one row":
            return torch.randn(1, columns, generator=draw).expand(rows, columns)
        case "every second":
            return torch.randn(rows, 2 * columns, generator=draw)[:, ::2]
    raise AssertionError(form)


FORMS = st.sampled_from(["rows", "columns", "part", "one row", "every second"])
SCALES = st.sampled_from([None, 0.5, 3.0])


def results(x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, **scales: float | None) -> list[Tensor]:
    """The product and all gradients."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = linear(*inputs, **scales)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


@multiplied
@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    forms=st.tuples(FORMS, FORMS, FORMS),
    biased=st.sampled_from([None, "own", "one", "every second"]),
    scale_in=SCALES,
    scale_out=SCALES,
    seed=st.integers(0, 2**31),
)
def test_products_and_gradients_equal_those_in_float64(sizes, forms, biased, scale_in, scale_out, seed):
    (T, I, O), draw = sizes, torch.Generator().manual_seed(seed)  # noqa: E741
    x, weight, dy = (drawn(shape, form, draw) for shape, form in zip([(T, I), (O, I), (T, O)], forms, strict=True))
    biases = {
        "own": torch.randn(O),
        "one": torch.randn(1).expand(O),
        "every second": torch.randn(2 * O)[::2],
        None: None,
    }
    bias = biases[biased]
    scales = {"scale_in": scale_in, "scale_out": scale_out}
    found = results(x, weight, bias, dy, **scales)
    exact = results(x.double(), weight.double(), None if bias is None else bias.double(), dy.double(), **scales)
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= ROUNDING * max(1.0, expected.abs().max())


@multiplied
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    widths=st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from([4, 8, 12])),
    rows=st.sampled_from([1, 4, 7, 32]),
    form=FORMS,
    seed=st.integers(0, 2**31),
)
def test_experts_equal_the_loop_in_float64(counts, widths, rows, form, seed):
    (I, O), N, draw = widths, sum(counts), torch.Generator().manual_seed(seed)  # noqa: E741
    x, weight = torch.randn(N, I, generator=draw), torch.randn(len(counts), O, I, generator=draw)
    dy = drawn((N, O), form, draw)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped_onednn, "ROWS", rows)
        for kernel, dtype in [("auto", torch.float32), ("loop", torch.float64)]:
            inputs = [t.to(dtype).requires_grad_() for t in (x, weight)]
            y = grouped_linear(inputs[0], counts, inputs[1], kernel)
            assert ("_Grouped" in type(y.grad_fn).__name__) == (kernel == "auto")
            found.append([y, *torch.autograd.grad(y, inputs, dy.to(dtype))])
    for ours, expected in zip(*found, strict=True):
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= ROUNDING * max(1.0, expected.abs().max())


@multiplied
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_no_experts_gradient_needs_is_not_kept(frozen):
    operands = [torch.randn(6, 4), torch.randn(2, 8, 4)]
    operands[1 - frozen].requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = grouped_linear(operands[0], [2, 4], operands[1])
    assert operands[frozen].data_ptr() in {t.data_ptr() for t in kept}
    assert operands[1 - frozen].data_ptr() not in {t.data_ptr() for t in kept}
    y.sum().backward()
    assert operands[1 - frozen].grad.shape == operands[1 - frozen].shape


@pytest.mark.usefixtures("everywhere")
def test_float32_on_a_cpu_alone_is_taken():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert onednn.takes(x, weight, 1)
    assert not onednn.takes(x.double(), weight.double(), 1)
    assert not onednn.takes(x.bfloat16(), weight.bfloat16(), 1)
    assert not onednn.takes(x.to("meta"), weight.to("meta"), 1)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.takes(x, weight, 1)


@pytest.mark.usefixtures("everywhere")
def test_a_small_product_is_left_to_torch():
    assert not onednn.takes(torch.randn(3, 4), torch.randn(5, 4), 61)
    assert onednn.takes(torch.randn(4, 4), torch.randn(5, 4), 61)


@multiplied
@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_no_gradient_needs_is_not_kept(frozen):
    operands = {"x": torch.randn(6, 4), "weight": torch.randn(5, 4)}
    (other,) = (tensor.requires_grad_() for name, tensor in operands.items() if name != frozen)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = linear(**operands)
    assert [t.data_ptr() for t in kept] == [operands[frozen].data_ptr()]
    y.sum().backward()
    assert other.grad is not None


@multiplied
def test_it_keeps_its_two_operands_and_flops_are_counted():
    x, weight = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    kept: list[Tensor] = []
    keeping = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with keeping, FlopCounterMode(display=False) as counter:
        y = linear(x, weight, scale_out=2.0)
        assert counter.get_total_flops() == 2 * 6 * 4 * 5
        y.sum().backward()
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}
    assert counter.get_total_flops() == 3 * 2 * 6 * 4 * 5


@multiplied
def test_a_gradient_of_a_gradient_is_refused():
    x, weight = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("cpus", "capability", "product", "faster"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", torch.mm, True),
        ("vendor_id : GenuineIntel", "AVX512", torch.mm, False),
        ("vendor_id : AuthenticAMD", "AVX2", torch.mm, False),
        (None, "AVX512", torch.mm, False),
        ("vendor_id : AuthenticAMD", "AVX512", None, False),
    ],
)
def test_it_is_for_cpus_where_mkl_leaves_avx_512_unused(tmp_path, monkeypatch, cpus, capability, product, faster):
    if cpus:
        (tmp_path / "cpuinfo").write_text(cpus)
    monkeypatch.setattr(onednn, "CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(onednn, "PRODUCT", product)
    assert machine_is_faster.__wrapped__() is faster


def test_a_torch_without_onednn_multiplies_by_itself(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("vendor_id : AuthenticAMD")
    for name, value in [("LEAST", 1), ("CPUS", tmp_path / "cpuinfo"), ("PRODUCT", None)]:
        monkeypatch.setattr(onednn, name, value)
    monkeypatch.setattr(grouped_onednn, "LEAST", 0)
    monkeypatch.setattr(onednn, "is_faster", machine_is_faster.__wrapped__)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    x, weights = torch.randn(6, 4), torch.randn(2, 8, 4)
    assert torch.equal(linear(x, weights[0]), x @ weights[0].t())
    looped = grouped_linear(x, [2, 4], weights, "loop")
    torch.testing.assert_close(grouped_linear(x, [2, 4], weights), looped, rtol=0, atol=ROUNDING)
