"""Multi-token prediction against its definition."""
# S sequence, B batch, D hidden

from itertools import count

import mixers
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.accounting import tail_flops, tail_parameters, training_flops
from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, tail_bytes
from eyas.layers.dropout import Dropout, token_seeds
from eyas.layers.model import HybridLM
from eyas.layers.mtp import ahead
from eyas.layers.testing.compare import gradients
from eyas.parallel.context import Context

seeds = st.integers(0, 999)


@st.composite
def data(draw):
    """Plain data of models with up to three depths of any mixers."""
    repeated = draw(st.booleans())
    depths = draw(st.sampled_from([["/a", "/b+c"], ["/b, a"], ["/c", "/a+b", "/a"]]))
    if repeated:
        depths = [depths[0]] * len(depths)
    return {
        "hidden_size": 12,
        "vocab_size": 7,
        "layers": {name: draw(mixers.anything()) for name in "abc"},
        "pattern": " ".join(["a, b+c", *depths]),
        "tie_embeddings": draw(st.booleans()),
        "init_std": 0.3,
        "mtp_repeated": repeated,
        "mtp_loss_weight": draw(st.sampled_from([0.0, 0.3])),
        "embedding_multiplier": draw(mixers.scales),
        "lm_head_multiplier": draw(mixers.scales),
    }


def build(model, seed=0, dtype=torch.float64):
    return HybridLM(load_model(model), Context(Placement(dtype=dtype))).initialise(seed)


def batch(length, seed):
    """Tokens and labels (B, S), some without a loss."""
    draw = torch.Generator().manual_seed(seed)
    tokens, labels = (torch.randint(0, 7, (2, length), generator=draw) for _ in range(2))
    return tokens, labels.masked_fill(torch.rand(2, length, generator=draw) < 0.2, -100)


def literal(lm, tokens_BS, labels_BS, documents_SB):
    """Every document by itself; depth k knows only the positions that have a token k further on."""
    spec, depths = lm.spec, lm.mtp.depths

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + spec.norm_epsilon).sqrt() * weight

    def embed(tokens_S):
        return lm.embedding.weight[tokens_S, None] * spec.embedding_multiplier

    total_SB = torch.zeros(tokens_BS.shape[1], 2, dtype=torch.float64)
    for row, part in mixers.rows_of_documents(documents_SB):
        tokens_S, labels_S = tokens_BS[row, part], labels_BS[row, part]
        h = embed(tokens_S)
        for block in lm.blocks.values():
            h = block(h, mixers.alone())
        h = norm(h, lm.final_norm.weight)
        for k in range(1, min(lm.mtp.number, len(tokens_S) - 1) + 1):
            depth = depths[0] if spec.mtp_repeated else depths[k - 1]
            embedded = norm(embed(tokens_S[k:]), depth.embedding_norm.weight)
            x = torch.cat([embedded, norm(h[: len(embedded)], depth.hidden_norm.weight)], -1) @ depth.join.T
            for block in depth.blocks:
                x = block(x, mixers.alone())
            h = norm(x, depth.final_norm.weight)
            logits = h[:, 0] @ lm.output.weight.T * spec.lm_head_multiplier
            loss = F.cross_entropy(logits, labels_S[k:], reduction="none", ignore_index=-100)
            total_SB[part, row] += F.pad(loss, (0, k)) / lm.mtp.number
    return total_SB


@given(data(), st.integers(1, 12), st.booleans(), seeds)
def test_the_loss_is_that_of_the_definition_with_gradients(model, length, packed, seed):
    lm, (tokens, labels) = build(model, seed), batch(length, seed)
    documents = mixers.documents(length, 2, seed, share=0.3) if packed else torch.zeros(length, 2, dtype=torch.long)
    losses, again = (lm(tokens, labels, documents.t() if packed else None) for _ in range(2))
    expected = literal(lm, tokens, labels, documents)
    torch.testing.assert_close(losses.parts["mtp_loss"], expected, rtol=1e-10, atol=1e-10)
    alone = build({**model, "pattern": "a, b+c", "mtp_repeated": False}, seed)
    assert torch.equal(losses.parts["loss"], alone(tokens, labels, documents.t() if packed else None))
    minimised = again.parts["loss"] + model["mtp_loss_weight"] * expected
    got, wanted = (gradients(loss.sum(), lm) for loss in (losses.minimised_SB, minimised))
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(gradient)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("repeated", [False, True])
def test_dropout_falls_on_what_each_block_of_each_depth_writes(repeated):
    layers = {name: {"kind": "mlp", "intermediate_size": 20} for name in "ab"}
    model = {"hidden_size": 12, "vocab_size": 7, "layers": layers, "pattern": "a / a, b / a, b", "dropout": 0.25}
    lm, (tokens, labels), context = build(model | {"mtp_repeated": repeated}), batch(9, 0), mixers.alone()
    token_seeds_BS = token_seeds(0, 0, *tokens.shape)
    numbers, dropout = count(), Dropout(0.25, token_seeds_BS.t())

    def through(blocks, x_SBD):
        for block in blocks:
            x_SBD = x_SBD + dropout(next(numbers), block.output(x_SBD, context))
        return x_SBD

    h_SBD, expected = lm.final_norm(through(lm.blocks.values(), lm.embed(tokens, context))), []
    for k, depth in enumerate(lm.mtp.in_order(), 1):
        h_SBD = depth.final_norm(through(depth.blocks, depth.joined(h_SBD, lm.embed(ahead(tokens, k, 0), context))))
        expected.append(lm.loss(h_SBD, ahead(labels, k, -100), context))
    found = lm(tokens, labels, seeds_BS=token_seeds_BS).parts["mtp_loss"]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-12, atol=1e-12)
    assert next(numbers) == 5


@given(data(), seeds)
def test_without_labels_a_tail_changes_nothing(model, seed):
    lm, (tokens, _) = build(model, seed), batch(9, seed)
    alone = build({**model, "pattern": "a, b+c", "mtp_repeated": False}, seed)
    assert torch.equal(lm(tokens), alone(tokens))


@given(data())
def test_counted_parameters_are_those_of_the_tail(model):
    lm = build(model)
    assert tail_parameters(lm.spec) == sum(parameter.numel() for parameter in lm.mtp.parameters())


@given(data(), st.integers(1, 2), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_counted_activations_are_those_kept_for_the_backward_pass(model, rows, dtype):
    lm, (tokens, labels) = build(model, dtype=dtype), batch(70, 0)
    tokens, labels = tokens[:rows], labels[:rows]
    known = [*lm.parameters(), tokens, *mixers.rotary_tables(lm.spec, 70, dtype)]
    kept = mixers.bytes_kept(lambda: lm(tokens, labels).minimised_SB, known)
    share = RankShare(sequence_length=70, microbatch=rows, element=dtype.itemsize)
    stated = sum(cost.activation_bytes for cost in block_costs(lm.spec, share)) + loss_bytes(lm.spec, share)
    assert stated + tail_bytes(lm.spec, share) == kept


def test_counted_flops_are_the_join_the_blocks_and_the_head_of_every_depth():
    layers = {"ffn": {"kind": "mlp", "intermediate_size": 20}}
    model = {"hidden_size": 12, "vocab_size": 7, "layers": layers, "pattern": "ffn / ffn, ffn / ffn, ffn"}
    ffn = 2 * 3 * 12 * 20
    for repeated in (False, True):
        spec = load_model(model | {"mtp_repeated": repeated})
        assert tail_flops(spec, 9) == 2 * (2 * 12 * 24 + 2 * ffn + 2 * 12 * 7)
        assert training_flops(spec, 9) == 3 * (ffn + 2 * 12 * 7 + tail_flops(spec, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mtp_repeated": True}, "model.mtp_repeated=true, but the pattern a has no depths after '/'"),
        ({"mtp_repeated": True, "pattern": "a / a / a, a"}, "depths that differ after '/'"),
        ({"mtp_loss_weight": -0.1}, "model.mtp_loss_weight=-0.1 must not be negative"),
    ],
)
def test_a_tail_that_cannot_be_is_refused(options, message):
    model = {"hidden_size": 4, "vocab_size": 7, "layers": {"a": {"kind": "mlp", "intermediate_size": 4}}}
    with pytest.raises(ConfigError, match=message):
        load_model({**model, "pattern": "a", **options})
