"""Decoding many texts, and from states that were kept."""
# S sequence, B batch, D hidden

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import CheckpointError, DataError
from eyas.core.mixer import Mixer, Placement
from eyas.core.model import load_model
from eyas.layers import states
from eyas.layers.decoding import decode, read
from eyas.layers.model import HybridLM
from eyas.layers.sampling import Sampling
from eyas.parallel.context import Context

V = 11
seeds = st.integers(0, 999)
texts = st.lists(st.integers(0, V - 1), max_size=7)
samplings = st.sampled_from([Sampling(temperature=0), Sampling(temperature=3.0, top_k=7, top_p=0.9)])


@st.composite
def models(draw):
    """Plain data of a model with two blocks of any mixers."""
    layers = {name: draw(mixers.anything()) for name in "abc"}
    return {"hidden_size": 12, "vocab_size": V, "layers": layers, "pattern": "a, b+c", "init_std": 0.3}


def build(model, seed):
    return HybridLM(load_model(model), Context(Placement(dtype=torch.float64))).initialise(seed)


def continued(lm, prefix, prompts, sampling, seed=0, tokens=6):
    return decode(
        lm, prefix, prompts, tokens=tokens, sampling=sampling, seed=seed, ends=lambda new: new[-1] == 0, vocab_size=V
    )


def one_by_one(lm, tokens, sampling, seed, longest=6):
    """Each token from a forward pass over all before it."""
    text, random = list(tokens), torch.Generator().manual_seed(seed)
    while len(text) < len(tokens) + longest and (len(text) == len(tokens) or text[-1] != 0):
        text.append(sampling.token(lm(torch.tensor([text]))[-1, 0], random))
    return text[len(tokens) :]


@given(models(), texts, st.lists(texts, min_size=1, max_size=4), samplings, seeds)
@torch.inference_mode()
def test_texts_of_any_lengths_are_those_of_forward_passes_one_by_one(model, before, prompts, sampling, seed):
    lm, before = build(model, seed), [3, *before]
    expected = [one_by_one(lm, before + prompt, sampling, seed + row) for row, prompt in enumerate(prompts)]
    assert continued(lm, read(lm, before), prompts, sampling, seed) == expected


@given(models(), texts, texts, texts, samplings, seeds)
@torch.inference_mode()
def test_a_prefix_can_be_branched_from_again_and_again(model, before, prompt, other, sampling, seed):
    lm, before = build(model, seed), [3, *before]
    prefix = read(lm, before)
    kept = states.mapped(torch.clone, prefix.states)
    longer = read(lm, prompt, prefix)
    branches = [continued(lm, prefix, [prompt], sampling, seed) for _ in range(2)]
    continued(lm, prefix, [other, prompt], sampling, seed)
    assert branches == [continued(lm, longer, [[]], sampling, seed)] * 2
    assert longer.tokens == (*before, *prompt)
    for now, then in zip(mixers.tensors(prefix.states), mixers.tensors(kept), strict=True):
        assert torch.equal(now, then)


@given(mixers.anything(), st.lists(st.integers(1, 9), min_size=1, max_size=3), seeds)
def test_reading_many_tokens_at_once_equals_reading_one_by_one(options, lengths, seed):
    module, context = mixers.build(options, seed=seed), mixers.alone()
    x_SBD = mixers.noise(sum(lengths), 2, mixers.HIDDEN, seed=seed)
    expected, last = mixers.decode(module, x_SBD)
    for prefill in (module.prefill, lambda *arguments: Mixer.prefill(module, *arguments)):
        state, parts = module.initial_state(2), []
        for part_SBD in x_SBD.split(lengths):
            before = states.mapped(torch.clone, state)
            y_SBD, after = prefill(part_SBD, state, context)
            assert all(map(torch.equal, mixers.tensors(state), mixers.tensors(before)))
            parts.append(y_SBD)
            state = after
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-11)


@given(models(), st.lists(texts, min_size=1, max_size=3), seeds)
@torch.inference_mode()
def test_rows_of_a_state_are_the_states_of_its_rows(model, prompts, seed):
    lm = build(model, seed)
    length = max(map(len, prompts)) + 1
    tokens_BS = torch.tensor([[3, *prompt, *[1] * (length - 1 - len(prompt))] for prompt in prompts])
    dims = states.row_dims(lm)
    _, together = lm.prefill(tokens_BS, lm.initial_state(len(prompts)))
    for row in range(len(prompts)):
        _, alone = lm.prefill(tokens_BS[row, None], lm.initial_state(1))
        torch.testing.assert_close(states.rows(together, dims, [row]), alone, rtol=1e-11, atol=1e-11)


@pytest.fixture
def lm():
    return build({"hidden_size": 12, "vocab_size": V, "layers": {"a": ATTENTION, "m": MAMBA}, "pattern": "a+m"}, 0)


ATTENTION = {"kind": "attention", "num_heads": 2, "head_dim": 4}
MAMBA = {"kind": "mamba2", "num_heads": 2, "head_dim": 4, "state_size": 3}


def test_a_saved_prefix_is_the_one_that_was_read(lm, tmp_path):
    prefix = read(lm, [3, 1, 4, 1, 5])
    states.save(prefix, tmp_path / "prefix", lm)
    loaded = states.load(tmp_path / "prefix", lm)
    assert loaded.tokens == prefix.tokens
    assert all(map(torch.equal, mixers.tensors(loaded.states), mixers.tensors(prefix.states)))
    assert [path.name for path in tmp_path.iterdir()] == ["prefix"]


def test_a_prefix_that_cannot_be_used_is_refused(lm, tmp_path):
    with pytest.raises(DataError, match="there is no prefix at .*missing"):
        states.load(tmp_path / "missing", lm)
    with pytest.raises(DataError, match="cannot be written"):
        states.save(read(lm, [3]), tmp_path / "missing" / "prefix", lm)
    (tmp_path / "text").write_text("a falcon")
    torch.save({"tokens": [1]}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(CheckpointError, match="holds no saved prefix"):
            states.load(tmp_path / name, lm)
    states.save(read(lm, [3]), tmp_path / "prefix", lm)
    with torch.no_grad():
        lm.final_norm.weight[0] += 1
    with pytest.raises(CheckpointError, match="other weights"):
        states.load(tmp_path / "prefix", lm)
