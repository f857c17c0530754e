"""The loss against PyTorch's."""
# S sequence, B batch, V vocabulary

import mixers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.layers.cross_entropy import IGNORED, cross_entropy
from eyas.parallel.context import Context


@st.composite
def cases(draw):
    """Logits (S, B, V) of any size and labels (S, B), some of them ignored."""
    length, vocabulary, seed = draw(st.integers(1, 6)), draw(st.integers(1, 30)), draw(st.integers(0, 999))
    logits = draw(st.sampled_from([1.0, 100.0])) * mixers.noise(length, 2, vocabulary, seed=seed)
    labels = torch.randint(0, vocabulary, (length, 2), generator=torch.Generator().manual_seed(seed))
    labels[mixers.noise(length, 2, seed=seed + 1) > draw(st.sampled_from([9.0, 0.5, -9.0]))] = IGNORED
    return logits.requires_grad_(), labels


@given(cases())
def test_loss_and_gradient_equal_pytorchs(case):
    logits, labels = case
    loss = cross_entropy(logits, labels, 0, Context())
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(loss, expected.view_as(labels), rtol=1e-12, atol=1e-12)
    weight = mixers.noise(*labels.shape, seed=5)
    (actual,) = torch.autograd.grad((loss * weight).sum(), logits)
    (wanted,) = torch.autograd.grad((expected.view_as(labels) * weight).sum(), logits)
    torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


@given(cases())
def test_ignored_labels_have_no_loss_and_no_gradient(case):
    logits, labels = case
    loss = cross_entropy(logits, labels, 0, Context())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert not loss[labels == IGNORED].any()
    assert not gradient[labels == IGNORED].any()


def test_huge_logits_do_not_overflow():
    logits = torch.tensor([[[3e38, -3e38, 0.0]]])
    assert cross_entropy(logits, torch.tensor([[0]]), 0, Context()).item() == 0.0
    assert cross_entropy(logits, torch.tensor([[2]]), 0, Context()).item() > 1e38


def test_narrow_logits_give_a_float32_loss_and_a_narrow_gradient():
    logits = mixers.noise(3, 2, 11, dtype=torch.bfloat16).requires_grad_()
    labels = torch.arange(6).view(3, 2)
    loss = cross_entropy(logits, labels, 0, Context())
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss.sum(), logits)[0].dtype == torch.bfloat16
    expected = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(3, 2)
    torch.testing.assert_close(loss, expected)


def test_the_logits_are_left_as_they_were():
    logits = mixers.noise(3, 2, 11)
    before = logits.clone()
    cross_entropy(logits, torch.zeros(3, 2, dtype=torch.long), 0, Context())
    assert torch.equal(logits, before)
