"""Laws of the selective scan."""
# S sequence, B batch, H heads, P head dim, N state, G groups

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.layers.scratch import release
from eyas.layers.ssd import document_starts, ssd, ssd_step

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""For float64: what rounding leaves of sums of a few hundred terms near one."""


@dataclass
class Case:
    """Operands of a scan and the weights of a scalar loss over its two results."""

    operands: list[Tensor]
    initial: Tensor | None
    documents: Tensor | None
    loss_weights: tuple[Tensor, Tensor]

    def results(self, dtype: torch.dtype = torch.float64, **options: object) -> list[Tensor]:
        """y, the final state and the gradients of all operands and the initial state."""
        inputs = [t.detach().clone().requires_grad_() for t in (*self.operands, self.initial) if t is not None]
        cast = [t if t.dim() == 1 else t.to(dtype) for t in inputs]
        initial = cast[6] if self.initial is not None else None
        y, state = ssd(*cast[:6], initial_state_BHPN=initial, documents_SB=self.documents, **options)
        loss = (y * self.loss_weights[0]).sum() + (state * self.loss_weights[1]).sum()
        return [y.detach(), state.detach(), *torch.autograd.grad(loss, inputs)]


def draw_operands(seed: int, S: int, B: int, G: int, R: int, P: int, N: int, decay: float) -> list[Tensor]:
    """x, dt, A, B, C, D in float64; a token's log decay is up to `decay`."""
    torch.manual_seed(seed)
    H = G * R
    dt = torch.rand(S, B, H, dtype=torch.float64) * decay
    A = -torch.linspace(0.1, 1, H, dtype=torch.float64)
    x, B_, C_, D = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((S, B, H, P), (S, B, G, N), (S, B, G, N), (H,))
    )
    return [x, dt, A, B_, C_, D]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    S, B, G, R = draw(st.integers(1, 70)), draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    P, N = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    decay = draw(st.sampled_from([0.01, 1.0, 10.0, 100.0]))
    operands = draw_operands(draw(st.integers(0, 999)), S, B, G, R, P, N, decay)
    initial = torch.randn(B, G * R, P, N, dtype=torch.float64) if draw(st.booleans()) else None
    documents = (torch.rand(S, B) < 0.1).cumsum(0) if draw(st.booleans()) else None
    weights = torch.randn_like(operands[0]), torch.randn(B, G * R, P, N, dtype=torch.float64)
    return Case(operands, initial, documents, weights)


@given(cases(), st.sampled_from([1, 2, 7, 16, 64]))
def test_chunked_scan_equals_recurrence(case: Case, chunk_size: int) -> None:
    """In results and all gradients, also where decay is too steep to be split into row and column factors."""
    expected = case.results(kernel="sequential")
    for ours, theirs in zip(case.results(kernel="chunked", chunk_size=chunk_size), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@given(fall=st.floats(10, 90), chunk_size=st.sampled_from([1, 8, 32, 64]))
def test_what_a_fall_leaves_of_a_large_state_is_not_lost(fall: float, chunk_size: int) -> None:
    """Much is written, then the state falls by as much: what is left counts beside what is written afterwards. Another
    fall, before them, makes the chunk steep."""
    x, dt, A, B, C, D = draw_operands(0, 40, 2, 1, 2, 3, 4, decay=0.01)
    written = torch.ones(40, 1, 1, 1, dtype=torch.float64)
    written[:10] = math.exp(fall)
    dt[5], dt[20] = 100 / -A, fall / -A
    scan = [ssd(x * written, dt, A, B, C, D * 0, kernel=k, chunk_size=chunk_size)[0] for k in ("chunked", "sequential")]
    ours, theirs = (y[20:].flatten(1) for y in scan)
    torch.testing.assert_close(ours, theirs, **EXACT)


@given(cases(), st.integers(1, 80))
def test_chunk_size_does_not_change_the_result(case: Case, chunk_size: int) -> None:
    for ours, theirs in zip(case.results(chunk_size=chunk_size), case.results(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("kernel", ["chunked", "sequential"])
@given(case=cases(), cut=st.integers(1, 69))
def test_scan_in_two_pieces_equals_scan_in_one(kernel: str, case: Case, cut: int) -> None:
    """The first piece's last state is all that the second needs, forward and backward."""
    S = case.operands[0].shape[0]
    cut = min(cut, S - 1)
    if cut == 0:
        return
    inputs = [t.requires_grad_() for t in case.operands]
    per_token = [t.dim() > 1 for t in inputs]
    documents = case.documents
    if documents is not None:  # a new piece begins within a document: state passes on only there
        documents[cut] = documents[cut - 1]
        documents[cut + 1 :] = torch.maximum(documents[cut + 1 :], documents[cut])

    def piece(at: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
        operands = [t[at] if cut_ else t for t, cut_ in zip(inputs, per_token, strict=True)]
        part = None if documents is None else documents[at]
        return ssd(*operands, initial_state_BHPN=state, documents_SB=part, kernel=kernel)

    head, state = piece(slice(0, cut), case.initial)
    tail, state = piece(slice(cut, S), state)
    y, last = piece(slice(0, S), case.initial)
    w_y, w_state = case.loss_weights
    ours = torch.autograd.grad((torch.cat([head, tail]) * w_y).sum() + (state * w_state).sum(), inputs)
    whole = torch.autograd.grad((y * w_y).sum() + (last * w_state).sum(), inputs)
    for one, other in zip((torch.cat([head, tail]), state, *ours), (y, last, *whole), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@given(
    seed=st.integers(0, 999), first=st.integers(1, 40), second=st.integers(1, 40), chunk=st.sampled_from([4, 16, 64])
)
def test_packed_documents_equal_separate_runs(seed: int, first: int, second: int, chunk: int) -> None:
    """Results and gradients; the initial state belongs to the first document, the last state to the second."""
    operands = [t.requires_grad_() for t in draw_operands(seed, first + second, 2, 1, 3, 4, 5, 2.0)]
    initial = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    documents = torch.tensor([5] * first + [3] * second)[:, None].expand(-1, 2)
    w = torch.randn_like(operands[0])
    y, state = ssd(*operands, initial_state_BHPN=initial, documents_SB=documents, chunk_size=chunk)

    def part(at: slice) -> list[Tensor]:
        return [t[at] if t.dim() > 1 else t for t in operands]

    one, _ = ssd(*part(slice(0, first)), initial_state_BHPN=initial)
    two, separate = ssd(*part(slice(first, None)))
    ours = torch.autograd.grad((y * w).sum() + state.sum(), operands)
    theirs = torch.autograd.grad((torch.cat([one, two]) * w).sum() + separate.sum(), operands)
    for mine, other in zip((y, state, *ours), (torch.cat([one, two]), separate, *theirs), strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    seed=st.integers(0, 999),
    start=st.integers(1, 69),
    scale=st.sampled_from([1e-3, 3.0, 1e3]),
    chunk=st.sampled_from([8, 64]),
)
def test_no_bit_of_a_document_depends_on_another(
    dtype: torch.dtype, seed: int, start: int, scale: float, chunk: int
) -> None:
    """Scaling everything in the first document, its decay too, leaves the second's y and gradients as they were."""
    S = 70
    documents = (torch.arange(S) >= start).long()[:, None].expand(-1, 2)
    seen = []
    for factor in (1.0, scale):
        operands = [t.to(dtype) for t in draw_operands(seed, S, 2, 2, 2, 3, 4, 1.0)]
        weight = torch.randn_like(operands[0])
        initial = torch.randn(2, 4, 3, 4, dtype=dtype) * factor
        for t in (*operands, weight):
            if t.dim() > 1:
                t[:start] *= factor
        inputs = [t.requires_grad_() for t in operands]
        y, state = ssd(*inputs, initial_state_BHPN=initial, documents_SB=documents, chunk_size=chunk)
        gradients = torch.autograd.grad((y * weight).sum() + state.sum(), inputs)
        seen.append([y[start:], state, *(g[start:] for g in gradients if g.dim() > 1)])
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


@given(seed=st.integers(0, 999), start=st.integers(1, 69), chunk=st.sampled_from([8, 64]))
def test_no_gradient_crosses_a_document_boundary(seed: int, start: int, chunk: int) -> None:
    """A loss on the second document has exactly zero gradient in the first and in the initial state."""
    operands = draw_operands(seed, 70, 2, 1, 2, 3, 4, 1.0)
    initial = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (*operands, initial)]
    documents = (torch.arange(70) >= start).long()[:, None].expand(-1, 2)
    y, state = ssd(*inputs[:6], initial_state_BHPN=initial, documents_SB=documents, chunk_size=chunk)
    dx, ddt, _, dB, dC, _, dinitial = torch.autograd.grad(y[start:].square().sum() + state.sum(), inputs)
    assert all(not g[:start].any() for g in (dx, ddt, dB, dC))
    assert not dinitial.any()
    assert dx[start:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steep_decay_gives_finite_gradients(dtype: torch.dtype) -> None:
    """Hugging Face's init: a token's decay down to exp(-21), where exp of a difference the wrong way overflows."""
    torch.manual_seed(0)
    S, B, H, P, N = 300, 2, 16, 8, 16
    operands = [
        torch.randn(S, B, H, P),
        torch.nn.functional.softplus(1 + torch.randn(S, B, H)),
        -torch.arange(1.0, H + 1),
    ]
    operands += [torch.randn(S, B, 1, N), torch.randn(S, B, 1, N), torch.ones(H)]
    inputs = [t.to(dtype).requires_grad_() for t in operands]
    y, state = ssd(*inputs)
    for t in (y, state, *torch.autograd.grad(y.float().square().sum(), inputs)):
        assert t.isfinite().all()


@pytest.mark.parametrize("decay", [0.05, 1.0, 20.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-5), (torch.bfloat16, 1.5e-2)],  # 2^-24 over sums of hundreds of terms; a few times 2^-9
)
def test_low_precision_stays_near_the_recurrence(dtype: torch.dtype, tolerance: float, decay: float) -> None:
    operands = draw_operands(0, 300, 2, 1, 4, 8, 16, decay)
    weights = torch.randn_like(operands[0]), torch.randn(2, 4, 8, 16, dtype=torch.float64)
    case = Case(operands, torch.randn_like(weights[1]), (torch.rand(300, 2) < 0.01).cumsum(0), weights)
    for ours, exact in zip(case.results(dtype), case.results(kernel="sequential"), strict=True):
        assert (ours - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("decay", [0.05, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("small", [1.0, 0.03])
def test_float32_gradient_of_the_decay_is_not_drowned(decay: float, small: float) -> None:
    """By the skip D x, by states that decay within a chunk, or by factors near the ends of float32: what the log decay
    gets is the small difference of large sums. Every operand and gradient stays within a hundred roundings."""
    x, dt, A, B, C, D = (t.float().double() for t in draw_operands(0, 300, 2, 1, 4, 8, 16, decay))
    weights = torch.randn_like(x).float().double(), torch.zeros(2, 4, 8, 16, dtype=torch.float64)
    case = Case([x, dt, A, B * small, C * small, D], None, None, weights)
    for ours, exact in zip(case.results(torch.float32), case.results(kernel="sequential"), strict=True):
        assert (ours - exact).abs().max() <= 6e-6 * exact.abs().max()


def test_float32_is_as_exact_as_sums_over_pairs_of_tokens() -> None:
    """The plainest sum rounds each pair's part of the log decay's gradient once. Over many draws the scan, which never
    has a pair's decay, is about as near to float64 in every gradient."""
    errors: dict[str, list[Tensor]] = {"scan": [], "pairs": []}
    for seed in range(30):
        x, dt, A, B, C, _ = (t.float().double() for t in draw_operands(seed, 40, 2, 2, 4, 8, 12, decay=1.0))
        weights = torch.randn_like(x)

        def gradients(scan: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
            inputs = [t.to(dtype).requires_grad_() for t in (x, dt, A, B, C)]  # noqa: B023
            return list(torch.autograd.grad((scan(*inputs) * weights.to(dtype)).sum(), inputs))  # noqa: B023

        exact = gradients(sum_over_pairs, torch.float64)
        for name, scan in (("scan", lambda *operands: ssd(*operands)[0]), ("pairs", sum_over_pairs)):
            found = gradients(scan, torch.float32)
            errors[name].append(torch.stack([(a - e).norm() / e.norm() for a, e in zip(found, exact, strict=True)]))
    scan, pairs = (torch.stack(each).mean(0) for each in errors.values())
    assert (scan <= 1.2 * pairs).all(), f"{scan / pairs}"


def sum_over_pairs(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """y of the scan, from the decay and the score of each pair of tokens: a log decay is summed from the first of the
    two on."""
    S, heads = len(x), x.shape[2] // B.shape[2]
    later = torch.ones(S, S, dtype=torch.bool).tril(-1)
    log_decay = (dt * A)[:, None].expand(-1, S, -1, -1).masked_fill(~later[..., None, None], 0.0).cumsum(0)
    decay = log_decay.exp().masked_fill(~(later | torch.eye(S, dtype=torch.bool))[..., None, None], 0.0)
    scores = torch.einsum("lbgn,mbgn->lmbg", C, B).repeat_interleave(heads, -1)
    return torch.einsum("lmbh,mbhp->lbhp", scores * decay, x * dt[..., None])


@pytest.mark.parametrize("documents", [1, 2])
def test_a_jump_between_slow_decays_does_not_overflow(documents: int) -> None:
    """One token decays nearly as far as a chunk's factors reach: of pairs that see nothing of each other, the product
    of factors, and with large gradients of scores, is beyond float32."""
    x, dt, A, B, C, D = (t.float().double() for t in draw_operands(0, 64, 1, 1, 1, 64, 64, decay=1.0))
    dt = torch.full_like(dt, 0.02)
    dt[32] = 78.0
    weights = 100 * torch.randn_like(x), torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    numbers = torch.arange(64)[:, None] * documents // 64
    case = Case([x, dt, torch.full_like(A, -1.0), B, C, D], None, numbers if documents > 1 else None, weights)
    for ours, exact in zip(case.results(torch.float32), case.results(kernel="sequential"), strict=True):
        assert (ours - exact).norm() <= 1e-5 * exact.norm()


def test_low_precision_keeps_states_in_float32() -> None:
    operands = [t.bfloat16() for t in draw_operands(0, 10, 1, 1, 2, 4, 4, 1.0)]
    for kernel in ("chunked", "sequential"):
        y, state = ssd(*operands, kernel=kernel)
        assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@given(cases())
def test_steps_equal_the_scan(case: Case) -> None:
    """Decoding token by token from a passed state gives what the whole sequence gives."""
    y, last = ssd(*case.operands, initial_state_BHPN=case.initial)
    x, dt, A, B, C, D = case.operands
    state = torch.zeros_like(last) if case.initial is None else case.initial
    for t in range(x.shape[0]):
        y_t, state = ssd_step(x[t], dt[t], A, B[t], C[t], D, state)
        torch.testing.assert_close(y_t, y[t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


def test_views_of_a_wider_tensor_give_the_same() -> None:
    """x, B and C as slices of the convolution's output, as the mixer hands them over."""
    x, dt, A, B, C, D = draw_operands(0, 50, 2, 2, 2, 4, 3, 1.0)
    together = torch.cat([x.flatten(2), B.flatten(2), C.flatten(2)], dim=-1)
    parts = together.split([16, 6, 6], dim=-1)
    views = [part.unflatten(2, tail) for part, tail in zip(parts, [(4, 4), (2, 3), (2, 3)], strict=True)]
    torch.testing.assert_close(ssd(views[0], dt, A, *views[1:], D)[0], ssd(x, dt, A, B, C, D)[0], rtol=0, atol=0)


def test_results_survive_the_next_call() -> None:
    """Memory that calls share never leaves a call, nor does a forward between forward and backward disturb."""
    release()
    first, second = (draw_operands(seed, 150, 2, 1, 2, 4, 3, 1.0) for seed in (0, 1))
    inputs = [t.requires_grad_() for t in first]
    alone = torch.autograd.grad(sum(t.square().sum() for t in ssd(*inputs)), inputs)
    y, state = ssd(*inputs)
    kept = y.detach().clone(), state.detach().clone()
    ssd(*second)
    between = torch.autograd.grad(y.square().sum() + state.square().sum(), inputs)
    assert torch.equal(y, kept[0])
    assert torch.equal(state, kept[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, between, strict=True))


def test_starts_are_where_documents_change() -> None:
    documents = torch.tensor([[7, 7, 2, 2, 7], [0, 1, 1, 1, 1]]).t()
    expected = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 0, 0, 0]], dtype=torch.bool).t()
    assert torch.equal(document_starts(documents), expected)


@pytest.mark.parametrize(("kernel", "message"), [("chunkd", "did you mean 'chunked'"), ("mamba_ssm", "needs a GPU")])
def test_a_kernel_that_cannot_run_is_refused_by_name(kernel: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ssd(*draw_operands(0, 4, 1, 1, 1, 2, 2, 1.0), kernel=kernel)


def test_heads_must_divide_into_groups() -> None:
    x, dt, A, B, C, D = draw_operands(0, 4, 1, 2, 2, 2, 2, 1.0)
    with pytest.raises(ConfigError, match="3 heads over 2 groups"):
        ssd(x[:, :, :3], dt[..., :3], A[:3], B, C, D[:3])


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.1, 20.0])
def test_compiled_scan_equals_recurrence(decay: float) -> None:
    """Compiles the spans once (half a minute); steep spans run uncompiled within it."""
    operands = draw_operands(0, 150, 2, 1, 4, 8, 16, decay)
    weights = torch.randn_like(operands[0]), torch.randn(2, 4, 8, 16, dtype=torch.float64)
    case = Case(operands, torch.randn_like(weights[1]), None, weights)
    for ours, theirs in zip(case.results(kernel="compiled"), case.results(kernel="sequential"), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
