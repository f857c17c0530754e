"""The chunked selective scan against its recurrence."""
# S sequence, B batch, C channels, N state

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.layers.selective_scan import selective_scan
from eyas.layers.selective_scan_sequential import selective_scan_sequential
from eyas.layers.ssd import document_starts

seeds = st.integers(0, 999)


@st.composite
def scans(draw):
    """x, dt, A, B, C, D and the state before."""
    seed, length = draw(seeds), draw(st.integers(1, 40))
    C, N = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 4]))
    noise = lambda index, *shape: mixers.noise(*shape, seed=seed + index)  # noqa: E731
    steepness = draw(st.sampled_from([0.01, 1.0, 20.0]))
    drawn = (
        noise(0, length, 2, C),
        noise(1, length, 2, C).sigmoid(),
        -steepness * noise(2, C, N).sigmoid(),
        noise(3, length, 2, N),
        noise(4, length, 2, N),
        noise(5, C),
        noise(6, 2, C, N),
    )
    return tuple(t.requires_grad_() for t in drawn)


@given(scan=scans(), chunk=st.sampled_from([1, 4, 7, None]), packed=st.booleans(), seed=seeds)
def test_chunks_equal_the_recurrence_with_gradients(scan, chunk, packed, seed):
    *operands, state = scan
    documents = mixers.documents(len(operands[0]), 2, seed) if packed else None
    starts = None if documents is None else document_starts(documents)
    expected = selective_scan_sequential(*operands, state, starts)
    actual = selective_scan(*operands, initial_state_BCN=state, documents_SB=documents, chunk_size=chunk)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    losses = [
        (y * mixers.noise(*y.shape, seed=7)).sum() + (last * mixers.noise(*last.shape, seed=8)).sum()
        for y, last in (actual, expected)
    ]
    got, wanted = (torch.autograd.grad(loss, scan) for loss in losses)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_shapes_that_do_not_fit_are_refused():
    x, A, B = mixers.noise(3, 1, 2), mixers.noise(2, 4), mixers.noise(3, 1, 5)
    with pytest.raises(ConfigError, match=r"needs x and dt \(S, B, C\)"):
        selective_scan(x, x, A, B, B, mixers.noise(2))
