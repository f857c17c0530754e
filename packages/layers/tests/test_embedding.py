"""Embedding and head: every rank's rows are its part of the whole, and padding stands for nothing."""
# S sequence, B batch, D hidden, V vocabulary

import mixers
import models
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.weights import vocabulary_weight
from eyas.layers.cross_entropy import cross_entropy
from eyas.layers.embedding import Vocabulary
from eyas.layers.initial import initialise
from eyas.parallel.context import Context

vocabularies, ranks = st.integers(1, 40), st.integers(1, 5)


def parts(vocab, tensor, seed=0):
    """What each of `tensor` ranks holds."""
    spec = load_model(models.falcon_h1(vocab=vocab))
    held = [Vocabulary(spec, Placement(tensor_rank=rank, tensor=tensor, dtype=torch.float64)) for rank in range(tensor)]
    for part in held:
        initialise(part, seed, 0.5)
    return held


@given(vocabularies, ranks)
def test_ranks_hold_equal_rows_whose_padding_is_zero(vocab, tensor):
    held = parts(vocab, tensor)
    rows = torch.cat([part.weight for part in held])
    (whole,) = parts(vocab, 1)
    assert len({part.weight.shape for part in held}) == 1
    assert torch.equal(rows[:vocab], whole.weight)
    assert not rows[vocab:].any()
    assert len(rows) - vocab == vocabulary_weight(vocab, 16, tensor).padding < tensor
    assert sum(part.rows for part in held) == vocab


@given(vocabularies, ranks)
def test_the_ranks_embeddings_add_up_to_a_look_up(vocab, tensor):
    tokens = torch.randint(0, vocab, (2, 7), generator=torch.Generator().manual_seed(vocab))
    total = sum(part.embed(tokens, 1.5, Context()) for part in parts(vocab, tensor))
    (whole,) = parts(vocab, 1)
    torch.testing.assert_close(total, 1.5 * F.embedding(tokens, whole.weight).transpose(0, 1), rtol=0, atol=0)


@given(vocabularies, ranks)
def test_the_ranks_logits_are_the_whole_heads_and_padding_weighs_nothing(vocab, tensor):
    h = mixers.noise(5, 2, 16)
    logits = torch.cat([part.logits(h, 0.7, Context()) for part in parts(vocab, tensor)], -1)
    (whole,) = parts(vocab, 1)
    expected = 0.7 * h @ whole.weight.t()
    torch.testing.assert_close(logits[..., :vocab], expected, rtol=1e-12, atol=1e-12)
    assert not logits[..., vocab:].exp().any()
    labels = torch.full((5, 2), vocab - 1)
    losses = [cross_entropy(values, labels, 0, Context()) for values in (logits, expected)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


def test_padding_rows_get_no_gradient():
    *_, last = parts(7, 4)
    loss = cross_entropy(last.logits(mixers.noise(3, 2, 16), 1.0, Context()), torch.zeros(3, 2).long(), 0, Context())
    loss.sum().backward()
    assert not last.weight.grad[last.rows :].any()
