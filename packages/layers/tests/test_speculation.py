"""Speculative decoding gives the greedy text, and drafts what training taught the tail to predict."""
# S tokens, B batch, D hidden

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.decoding import decode, read
from eyas.layers.dropout import Dropout
from eyas.layers.model import HybridLM
from eyas.layers.mtp import ahead
from eyas.layers.sampling import Sampling
from eyas.layers.speculation import Acceptance, Drafter, read_on, speculative
from eyas.parallel.context import Context

V = 5
seeds = st.integers(0, 999)
texts = st.lists(st.integers(0, V - 1), min_size=1, max_size=7)


@st.composite
def models(draw, tails=(" / a", " / a, b / b", " / a+b / a+b / a+b")):
    """Plain data of a model with a tail; with few tokens, so that drafts are accepted now and then."""
    tail = draw(st.sampled_from(tails))
    layers = {name: draw(mixers.anything()) for name in "ab"}
    repeated = tail.count("a+b") == 3 and draw(st.booleans())
    model = {"hidden_size": 12, "vocab_size": V, "layers": layers, "pattern": "a, b" + tail, "init_std": 0.3}
    return model | {"mtp_repeated": repeated}


def build(model, seed=0):
    return HybridLM(load_model(model), Context(Placement(dtype=torch.float64))).initialise(seed)


@given(models(), texts, st.integers(0, 12), st.lists(st.integers(0, V - 1), max_size=3), seeds)
@torch.inference_mode()
def test_the_text_is_the_greedy_one(model, prompt, tokens, stop, seed):
    def ends(new):
        return new[-1] == 0 or (bool(stop) and new[-len(stop) :] == stop)

    lm, limits, acceptance = build(model, seed), {"tokens": tokens, "ends": ends, "vocab_size": V}, Acceptance()
    (expected,) = decode(lm, read(lm, prompt), [[]], sampling=Sampling(temperature=0), seed=0, **limits)
    assert speculative(lm, prompt, acceptance=acceptance, **limits) == expected
    assert 0 <= acceptance.accepted <= acceptance.drafted


def predictions(lm, tokens_S):
    """What each depth predicts at every position of a text, as in training."""
    tokens_BS = torch.tensor([tokens_S])
    hidden_SBD, _ = lm.prefill(tokens_BS, lm.initial_state(1))
    h_SBD, found = lm.final_norm(hidden_SBD), []
    for k, depth in enumerate(lm.mtp.in_order(), 1):
        h_SBD = depth(h_SBD, lm.embed(ahead(tokens_BS, k, 0), lm.context), lm.context, Dropout(0.0, None), 0)
        found.append(lm.logits(h_SBD, lm.context)[:, 0].argmax(-1).tolist())
    return found


@given(models(), st.lists(st.integers(1, 4), min_size=1, max_size=4), seeds)
@torch.inference_mode()
def test_drafts_are_what_the_tail_predicts_of_the_whole_text(model, lengths, seed):
    lm = build(model, seed)
    text = torch.randint(0, V, (sum(lengths) + 1,), generator=torch.Generator().manual_seed(seed)).tolist()
    drafter, states, read_so_far = Drafter(lm), lm.initial_state(1), 0
    for length in lengths:
        end = read_so_far + length
        normed_SBD, states = read_on(lm, text[read_so_far:end], states)
        drafted = drafter.draft(text[: end + 1], normed_SBD, V)
        for k, token in enumerate(drafted):
            assert predictions(lm, [*text[: end + 1], *drafted[:k]])[k][end - 1] == token
        read_so_far = end


def test_drafts_that_are_right_are_accepted():
    layers = {"a": {"kind": "mlp", "intermediate_size": 4}}
    lm = build({"hidden_size": 12, "vocab_size": 1, "layers": layers, "pattern": "a / a / a"})
    acceptance = Acceptance()
    new = speculative(lm, [0], tokens=7, ends=lambda new: False, vocab_size=1, acceptance=acceptance)
    assert new == [0] * 7
    assert (acceptance.drafted, acceptance.accepted, acceptance.rate) == (4, 4, 1.0)


def test_a_model_without_a_tail_is_refused():
    layers = {"a": {"kind": "mlp", "intermediate_size": 4}}
    lm = build({"hidden_size": 12, "vocab_size": V, "layers": layers, "pattern": "a"})
    with pytest.raises(ConfigError, match="no multi-token-prediction tail"):
        speculative(lm, [1], tokens=3, ends=lambda new: False, vocab_size=V, acceptance=Acceptance())
