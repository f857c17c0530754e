"""The chunked gated delta rule against its recurrence."""
# S sequence, B batch, G key heads, H heads, N key channels, P value channels

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.layers.delta_rule import gated_delta_rule
from eyas.layers.delta_rule_sequential import delta_rule_sequential
from eyas.layers.ssd import document_starts

seeds = st.integers(0, 999)


@st.composite
def scans(draw):
    """q, k, v, log decay, beta and the state before; decays from none to 10^-9 a token."""
    seed, length, groups = draw(seeds), draw(st.integers(1, 40)), draw(st.sampled_from([1, 2]))
    heads, N, P = groups * draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 4])), draw(st.sampled_from([1, 5]))
    noise = lambda index, *shape: mixers.noise(*shape, seed=seed + index)  # noqa: E731
    steepness = draw(st.sampled_from([0.0, 0.1, 20.0]))
    drawn = (
        noise(0, length, 2, groups, N),
        noise(1, length, 2, groups, N),
        noise(2, length, 2, heads, P),
        -steepness * noise(3, length, 2, heads).sigmoid(),
        noise(4, length, 2, heads).sigmoid(),
        noise(5, 2, heads, P, N),
    )
    return tuple(t.requires_grad_() for t in drawn)


@given(scan=scans(), chunk=st.sampled_from([1, 4, 7, None]), packed=st.booleans(), seed=seeds)
def test_chunks_equal_the_recurrence_with_gradients(scan, chunk, packed, seed):
    *sequences, state = scan
    documents = mixers.documents(len(sequences[0]), 2, seed) if packed else None
    starts = None if documents is None else document_starts(documents)
    expected = delta_rule_sequential(*sequences, state, starts)
    actual = gated_delta_rule(*sequences, initial_state_BHPN=state, documents_SB=documents, chunk_size=chunk)
    losses = []
    for name, result, wanted in zip(("y", "state"), actual, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    for y, last in (actual, expected):
        losses.append((y * mixers.noise(*y.shape, seed=7)).sum() + (last * mixers.noise(*last.shape, seed=8)).sum())
    got, wanted = (torch.autograd.grad(loss, scan) for loss in losses)
    for mine, gradient in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, gradient, rtol=0, atol=1e-9 * max(1.0, gradient.abs().max().item()))


@given(scan=scans(), cut=st.integers(1, 39))
def test_a_sequence_in_two_parts_is_the_whole(scan, cut):
    *sequences, state = scan
    cut = min(cut, len(sequences[0]))
    whole, last = gated_delta_rule(*sequences, initial_state_BHPN=state, chunk_size=4)
    first, between = gated_delta_rule(*(t[:cut] for t in sequences), initial_state_BHPN=state, chunk_size=4)
    if cut < len(whole):
        second, between = gated_delta_rule(*(t[cut:] for t in sequences), initial_state_BHPN=between, chunk_size=4)
        first = torch.cat([first, second])
    torch.testing.assert_close((first, between), (whole, last), rtol=1e-10, atol=1e-10)


def test_a_beta_of_one_replaces_what_the_key_held():
    """Without decay, with keys of length one, the second write under a key leaves nothing of the first."""
    k = torch.zeros(3, 1, 1, 4, dtype=torch.float64)
    k[0, ..., 0] = k[1, ..., 0] = k[2, ..., 1] = 1.0
    v, rate = mixers.noise(3, 1, 1, 2), torch.zeros(3, 1, 1, dtype=torch.float64)
    _, state = gated_delta_rule(k, k, v, rate, rate + 1.0)
    torch.testing.assert_close(state[0, 0, :, 0], v[1, 0, 0], rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    q, v, rate = mixers.noise(3, 1, 2, 4), mixers.noise(3, 1, 3, 4), mixers.noise(3, 1, 3)
    with pytest.raises(ConfigError, match="H a multiple of G; got"):
        gated_delta_rule(q, q, v, rate, rate)
