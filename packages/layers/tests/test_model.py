"""The whole model, its stages, and its specification."""
# S sequence, B batch, D hidden, V vocabulary

import math
from dataclasses import replace

import mixers
import models
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from eyas.core.accounting import forward_flops, parameters, state_bytes
from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_layer, load_model
from eyas.core.mup import FALCON_H1
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes
from eyas.layers.model import HybridLM, Stage
from eyas.parallel.context import Context

seeds = st.integers(0, 999)


PLAIN = (["a", "b+c"], ["a+b+c"], ["a", "b", "c"])
NAMED = (["both", "c", "both"], ["both", "wide", "last", "b"], ["first", "last", "first", "last", "a"])


@st.composite
def blocks(draw, layers):
    """Blocks with any options, for a pattern out of NAMED."""
    adapted = {layer: draw(st.lists(matrices(layers[layer]), max_size=2, unique=True)) for layer in "ab"}
    adapters = {"adapters": adapted, "adapter_rank": 2} if any(adapted.values()) else {}
    named = {
        "both": {"layers": "a+b", "shared": True, **adapters},
        "wide": {"layers": "w", "reads": "stream_and_embedding", "writes": "aside", "shared": draw(st.booleans())},
        "first": {"layers": "a+c", "writes": "aside", "shared": draw(st.booleans())},
        "last": {"layers": "b", "reads": "aside", "shared": draw(st.booleans())},
    }
    for options in named.values():
        options["combine"] = draw(st.sampled_from(["sum", "normalised_mean"]))
        options["projection"] = draw(st.booleans())
        options["output_multiplier"] = draw(mixers.scales)
    return named


def matrices(options):
    """Names of the projections of a mixer."""
    declared = load_layer(options, "layer").weights(12)
    return st.sampled_from([name for name, w in declared.items() if len(w.shape) == 2 and 12 in w.shape])


@st.composite
def data(draw, patterns=PLAIN + NAMED, **fixed):
    """Plain data of models with several blocks of any layers."""
    layers = {name: draw(mixers.anything()) for name in "abc"} | {"w": draw(mixers.attention())}
    drawn = {
        "hidden_size": 12,
        "vocab_size": draw(st.sampled_from([7, 16])),
        "layers": layers,
        "pattern": draw(st.sampled_from(patterns)),
        "repeat": draw(st.sampled_from([1, 2])),
        "blocks": draw(blocks(layers)),
        "meta_tokens": draw(st.sampled_from([0, 3])),
        "tie_embeddings": draw(st.booleans()),
        "init_std": 0.3,
        "mup": draw(st.sampled_from([None, "falcon_h1"])),
        "embedding_multiplier": draw(mixers.scales),
        "lm_head_multiplier": draw(mixers.scales),
    }
    return drawn | fixed


def build(model, seed=0, stage=None, dtype=torch.float64):
    spec = load_model(model)
    return HybridLM(spec, Context(Placement(dtype=dtype)), stage).initialise(seed)


def tokens(vocab_size, length=9, seed=0):
    return torch.randint(0, vocab_size, (2, length), generator=torch.Generator().manual_seed(seed))


def moved_by_rounding(lm, logits):
    """How far the result of `logits` moves, at most, as each weight goes up or down by four roundings, about what a sum
    over its inputs makes: a norm over a single value, which is its sign, can magnify them a million times, and two ways
    to compute such a model agree no better."""
    draw, moved = torch.Generator().manual_seed(0), []
    weights = [(parameter, parameter.detach().clone()) for parameter in lm.parameters()]
    with torch.no_grad():
        before = logits()
        for _ in range(3):
            for parameter, weight in weights:
                up = torch.randint(0, 2, weight.shape, generator=draw, dtype=weight.dtype) * 2 - 1
                parameter.copy_(weight * (1 + up * 4 * torch.finfo(weight.dtype).eps))
            moved.append(float((logits() - before).abs().max()))
        for parameter, weight in weights:
            parameter.copy_(weight)
    return max(moved)


def magnifies(lm, logits, apart):
    """Whether rounding alone moves the logits so far; NaN is further."""
    return apart <= moved_by_rounding(lm, logits)


def assert_equal_up_to_rounding(ours, theirs, lm, logits, bound):
    """Two ways to compute logits of the model agree to within `bound`, unless it magnifies rounding beyond that in
    `logits`, one of them."""
    if not torch.allclose(ours, theirs, rtol=bound, atol=bound):
        assume(not magnifies(lm, logits, float((ours - theirs).abs().max())))
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


def test_a_model_that_magnifies_rounding_is_told_from_one_that_does_not():
    heads = {"kind": "gated_delta_net", "num_key_heads": 1, "conv_kernel": 1}
    layers = {
        "a": heads | {"num_heads": 4, "key_head_dim": 4, "value_head_dim": 3},
        "b": heads | {"num_heads": 4, "key_head_dim": 3, "value_head_dim": 1},
        "c": heads | {"num_heads": 1, "key_head_dim": 4, "value_head_dim": 1, "conv_kernel": 2},
    }
    found = {"hidden_size": 12, "vocab_size": 16, "layers": layers, "init_std": 0.3, "embedding_multiplier": 1.75}
    twice = {
        "first": {"layers": "a+c", "writes": "aside", "shared": True},
        "last": {"layers": "b", "reads": "aside", "shared": True, "combine": "normalised_mean"},
    }
    signs = found | {"pattern": ["first", "last", "first", "last", "a"], "repeat": 2, "blocks": twice}
    plain = found | {"pattern": ["a", "b+c"]}
    rows, (magnifying, steady) = tokens(16, 16, 1), (build(model, 1) for model in (signs, plain))
    before = magnifying(rows)
    assert magnifies(magnifying, lambda: magnifying(rows), 1e-10)
    assert torch.equal(magnifying(rows), before)
    assert not magnifies(magnifying, lambda: magnifying(rows), math.nan)
    assert not magnifies(steady, lambda: steady(rows), 1e-11)


@given(model=data(), seed=seeds)
def test_decoding_equals_the_forward_pass(model, seed):
    lm, rows = build(model, seed), tokens(model["vocab_size"], seed=seed)
    states, logits = lm.initial_state(2), []
    for t in range(rows.shape[1]):
        logits_BV, states = lm.step(rows[:, t], states)
        logits.append(logits_BV)
    decoded, expected = torch.stack(logits), lm(rows)
    torch.testing.assert_close(decoded, expected, rtol=1e-9, atol=1e-9)  # of every model, whatever it magnifies
    assert_equal_up_to_rounding(decoded, expected, lm, lambda: lm(rows), 1e-11)


@given(model=data(), packed=st.booleans(), seed=seeds)
def test_the_loss_is_the_cross_entropy_of_the_logits(model, packed, seed):
    lm, rows = build(model, seed), tokens(model["vocab_size"], seed=seed)
    documents = mixers.documents(9, 2, seed).t() if packed and not model["meta_tokens"] else None
    labels = rows.roll(-1, 1)
    labels[:, -1] = -100
    logits = lm(rows, documents_BS=documents).permute(1, 2, 0)
    expected = F.cross_entropy(logits, labels, reduction="none").t()
    torch.testing.assert_close(lm(rows, labels, documents), expected, rtol=1e-11, atol=1e-11)


@given(model=data(meta_tokens=0), seed=seeds)
def test_packed_documents_equal_separate_ones(model, seed):
    lm, rows = build(model, seed), tokens(model["vocab_size"], 16, seed)
    documents = mixers.documents(16, 2, seed)
    packed = lm(rows, documents_BS=documents.t())
    for row, part in mixers.rows_of_documents(documents):
        alone = lm(rows[row, None, part])[:, 0]
        assert_equal_up_to_rounding(packed[part, row], alone, lm, lambda: lm(rows, documents_BS=documents.t()), 1e-10)


def with_another_first_document(lm, cut, seed):
    """Logits (S, B, V) of two documents in each row, the first of them `cut` tokens long; and the same logits after the
    first row's first document is another, with what they should share."""
    rows = tokens(lm.spec.vocab_size, 40, seed)
    documents = (torch.arange(40) >= cut).long().expand(2, -1)
    changed = rows.clone()
    changed[0, :cut] = (changed[0, :cut] + 1) % lm.spec.vocab_size
    others = torch.ones(40, 2, dtype=torch.bool)
    others[:cut, 0] = False
    before, after = (lm(each, documents_BS=documents) for each in (rows, changed))
    assert not torch.equal(before[:cut, 0], after[:cut, 0])
    return before[others], after[others]


@given(
    model=data(meta_tokens=0), dtype=st.sampled_from([torch.float32, torch.float64]), cut=st.integers(1, 39), seed=seeds
)
def test_no_bit_of_a_document_depends_on_another(model, dtype, cut, seed):
    before, after = with_another_first_document(build(model, seed, dtype=dtype), cut, seed)
    assert torch.equal(before, after)


@given(model=data(meta_tokens=0), moe=mixers.moe(), cut=st.integers(1, 39), seed=seeds)
def test_a_document_among_experts_depends_on_another_by_rounding_alone(model, moe, cut, seed):
    """An expert computes its tokens of all documents in one product, whose blocking, and so whose rounding, depends on
    how many these are."""
    model["layers"] |= {"c": moe}
    lm = build(model | {"pattern": ["a", "c", "b"]}, seed)
    before, after = with_another_first_document(lm, cut, seed)
    again = lambda: with_another_first_document(lm, cut, seed)[0]  # noqa: E731
    assert_equal_up_to_rounding(before, after, lm, again, 1e-10)


@given(model=data(), seed=seeds)
def test_a_tied_model_equals_an_untied_one_with_equal_weights(model, seed):
    tied, untied = (build(model | {"tie_embeddings": choice}, seed) for choice in (True, False))
    weights = tied.state_dict()
    untied.load_state_dict(weights | {"head.weight": weights["embedding.weight"]})
    rows = tokens(model["vocab_size"], seed=seed)
    assert torch.equal(tied(rows), untied(rows))
    for lm in (tied, untied):
        lm(rows, rows.roll(-1, 1)).sum().backward()
    both = untied.embedding.weight.grad + untied.head.weight.grad
    torch.testing.assert_close(tied.embedding.weight.grad, both, rtol=1e-12, atol=1e-12)


@given(model=data(patterns=PLAIN), cut=st.integers(1, 5), packed=st.booleans(), seed=seeds)
def test_stages_in_a_row_are_the_whole_model(model, cut, packed, seed):
    whole = build(model, seed)
    blocks = len(whole.blocks)
    cut = min(cut, blocks)
    first = build(model, seed, Stage(range(cut), True, False))
    last = build(model, seed, Stage(range(cut, blocks), False, True))
    rows = tokens(model["vocab_size"], seed=seed)
    packed = packed and not model["meta_tokens"]
    labels, documents = rows.roll(-1, 1), mixers.documents(9, 2, seed).t() if packed else None
    expected = whole(rows, labels, documents)
    loss = last(rows, labels, documents, hidden_sBD=first(rows, documents_BS=documents))
    assert torch.equal(loss, expected)
    for each in (loss, expected):
        each.sum().backward()
    found = {}
    for stage in (first, last):
        for name, parameter in stage.named_parameters():
            found[name] = found[name] + parameter.grad if name in found else parameter.grad
    assert found.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-12, atol=1e-12)


@given(model=data())
def test_counted_parameters_are_those_of_the_model(model):
    lm = build(model)
    assert parameters(lm.spec) == sum(parameter.numel() for parameter in lm.parameters())


@given(model=data(), length=st.integers(1, 9))
def test_counted_state_is_that_of_decoding(model, length):
    lm = build(model, dtype=torch.bfloat16)
    states = lm.initial_state(1)
    for token in range(length):
        _, states = lm.step(torch.tensor([token % 7]), states)
    assert state_bytes(lm.spec, length, 2) == sum(t.numel() * t.element_size() for t in mixers.tensors(states))


@given(model=data(), batch=st.integers(1, 2), dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_counted_activations_are_those_kept_for_the_backward_pass(model, batch, dtype):
    lm, rows = build(model, dtype=dtype), tokens(model["vocab_size"], 70)[:batch]
    known = [*lm.parameters(), rows, *mixers.rotary_tables(lm.spec, 70 + lm.spec.meta_tokens, dtype)]
    kept = mixers.bytes_kept(lambda: lm(rows, rows.roll(-1, 1)), known)
    share = RankShare(sequence_length=70, microbatch=batch, element=dtype.itemsize)
    stated = sum(cost.activation_bytes for cost in block_costs(lm.spec, share)) + loss_bytes(lm.spec, share)
    assert stated == kept


def test_counted_flops_are_those_of_a_model_of_matrix_products():
    layers = {"ffn": {"kind": "mlp", "intermediate_size": 20}}
    lm = build({"hidden_size": 12, "vocab_size": 7, "layers": layers, "pattern": "ffn", "repeat": 3})
    with FlopCounterMode(display=False) as counter:
        lm(tokens(7))
    assert counter.get_total_flops() == 18 * forward_flops(lm.spec, 9)


def test_a_law_gives_every_multiplier_that_is_open():
    spec = load_model(models.falcon_h1())
    ssm, attn, ffn = (spec.layers[name] for name in ("ssm", "attn", "ffn"))
    assert (spec.embedding_multiplier, spec.lm_head_multiplier) == (FALCON_H1.embedding(), FALCON_H1.lm_head(16))
    assert (ssm.input_multiplier, ssm.output_multiplier) == (FALCON_H1.ssm_input(16), FALCON_H1.ssm_output(16))
    assert ssm.multipliers == FALCON_H1.ssm_blocks(5)
    assert attn.input_multiplier == FALCON_H1.attention_input()
    assert attn.qk_norm and attn.key_multiplier is None
    assert replace(attn, qk_norm=False).with_law(FALCON_H1, 16).key_multiplier == FALCON_H1.key(16, 8)
    assert replace(attn, key_multiplier=0.5).with_law(FALCON_H1, 16).key_multiplier == 0.5
    assert attn.output_multiplier == FALCON_H1.attention_output(16, 4, 8)
    assert (ffn.gate_multiplier, ffn.down_multiplier) == (FALCON_H1.mlp_gate(16), FALCON_H1.mlp_down(16, 24))


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [
        ("ssm", "input_multiplier", 0.0),
        ("ssm", "output_multiplier", 3.0),
        ("ssm", "multipliers", (1.0, 2.0, 3.0, 4.0, 5.0)),
        ("attn", "input_multiplier", 3.0),
        ("attn", "key_multiplier", 0.0),
        ("attn", "output_multiplier", 3.0),
        ("ffn", "gate_multiplier", 3.0),
        ("ffn", "down_multiplier", 0.0),
    ],
)
def test_a_multiplier_that_is_set_wins_over_the_law(layer, field, value):
    model = models.falcon_h1()
    model["layers"][layer][field] = list(value) if isinstance(value, tuple) else value
    derived = load_model(models.falcon_h1()).layers[layer]
    changed = load_model(model).layers[layer]
    assert getattr(changed, field) == value != getattr(derived, field)
    others = [name for name in vars(derived) if name != field]
    assert [getattr(changed, name) for name in others] == [getattr(derived, name) for name in others]


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("ssm", {"kind": "mamba"}, "model.layers.ssm.kind: unknown mixer 'mamba'; did you mean 'mamba2' or 'mamba1'?"),
        ("ssm", {"num_head": 4}, "model.layers.ssm: unknown option 'num_head'; did you mean 'num_heads'"),
        ("attn", {"num_kv_heads": 3}, "model.layers.attn.num_kv_heads=3 must divide num_heads=4"),
        ("ffn", {"intermediate_size": "big"}, "model.layers.ffn.intermediate_size: expected an integer, got 'big'"),
    ],
)
def test_a_layer_that_cannot_be_built_is_named_with_its_field(layer, options, message):
    model = models.falcon_h1()
    model["layers"][layer] |= options
    with pytest.raises(ConfigError) as raised:
        load_model(model)
    assert str(raised.value).startswith(message)
