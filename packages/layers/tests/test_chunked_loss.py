"""The loss of a few tokens at a time against that of all at once."""
# S sequence, B batch, D hidden, V vocabulary

import mixers
import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eyas.core.errors import LayoutError
from eyas.core.labels import IGNORED
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, tail_bytes
from eyas.layers.model import HybridLM
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.layers.testing.compare import gradients
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout

S, B, D = 24, 2, 16


def built(chunk, dtype=torch.float64, **options):
    spec = load_model(models.falcon_h1(**options))
    return HybridLM(spec, Context(Placement(dtype=dtype), loss_chunk=chunk)).initialise(0)


def batch(vocab_size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = (torch.randint(0, vocab_size, (B, S), generator=generator) for _ in range(2))
    return tokens, labels.masked_fill(torch.rand(B, S, generator=generator) < 0.2, IGNORED)


def minimised(lm, *batch):
    losses = lm(*batch)
    return losses.minimised_SB if lm.spec.depths else losses


@given(chunk=st.integers(1, 60), tied=st.booleans(), depths=st.integers(0, 2), seed=st.integers(0, 99))
def test_chunks_change_neither_losses_nor_gradients(chunk, tied, depths, seed):
    whole, parts = (built(size, tied=tied, depths=depths) for size in (None, chunk))
    weight = mixers.noise(S, B, seed=seed)
    expected, found = (minimised(lm, *batch(50, seed)) for lm in (whole, parts))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted, got = (gradients((loss * weight).sum(), lm) for loss, lm in ((expected, whole), (found, parts)))
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-12)


def test_narrow_gradients_are_summed_in_float32():
    whole, parts = (built(size, torch.bfloat16) for size in (None, 1))
    found, expected = (gradients(minimised(lm, *batch(50)).sum(), lm)["head.weight"] for lm in (parts, whole))
    assert found.dtype == torch.bfloat16
    assert (found - expected).float().norm() < 4e-3 * expected.float().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_bytes_are_those_stated(dtype):
    lm = built(7, dtype, depths=2)
    tokens, labels = batch(50)
    known = [*lm.parameters(), tokens, *mixers.rotary_tables(lm.spec, S, dtype)]
    kept = mixers.bytes_kept(lambda: minimised(lm, tokens, labels), known)
    share = RankShare(sequence_length=S, microbatch=B, element=dtype.itemsize, loss_chunk=7)
    behind = loss_bytes(lm.spec, share) + tail_bytes(lm.spec, share)
    assert kept == behind + sum(cost.activation_bytes for cost in block_costs(lm.spec, share))


class Largest(TorchDispatchMode):
    """Most elements of a tensor that any operation inside gives whose rows are logits."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size, self.elements = vocab_size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape[-1:] == (self.vocab_size,) and result.shape[0] != D:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(("chunk", "tokens"), [(None, S * B), (7, 7), (1, 1)])
def test_no_more_logits_are_there_than_a_chunk_has(chunk, tokens):
    lm = built(chunk, vocab=997)
    with Largest(997) as largest:
        minimised(lm, *batch(997)).sum().backward()
    assert largest.elements == 997 * tokens


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=2, loss_chunk=5),
        Layout(tensor=4, sequence=True, loss_chunk=7),
        Layout(tensor=2, sequence=True, pipeline=2, loss_chunk=3, recompute="full"),
        Layout(context=2, loss_chunk=3),
    ],
    ids=str,
)
def test_chunks_change_nothing_under_a_layout(layout):
    assert_layout_changes_nothing(models.falcon_h1(depths=1, vocab=51, tied=True), layout, documents=True)


def test_meta_tokens_have_no_loss_in_chunks_either():
    assert_layout_changes_nothing(models.hymba(vocab=51), Layout(tensor=2, sequence=True, loss_chunk=4))


def test_a_chunk_without_tokens_is_refused():
    with pytest.raises(LayoutError, match=r"layout.loss_chunk=0 must be a whole number of at least 1"):
        Layout(loss_chunk=0)
