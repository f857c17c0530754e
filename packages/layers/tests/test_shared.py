"""Blocks with options against what they stand for: shared weights, adapters, averaged branches, meta tokens."""
# S sequence, B batch, D hidden

import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixers import noise

from eyas.core.errors import ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.model import HybridLM
from eyas.layers.norm import rms_norm
from eyas.parallel.context import Context

seeds = st.integers(0, 999)


def build(model, seed=0):
    """A model in float64 with no weight at zero or one."""
    lm = HybridLM(load_model(model), Context(Placement(dtype=torch.float64))).initialise(seed)
    with torch.no_grad():
        for index, parameter in enumerate(lm.parameters()):
            parameter.add_(0.2 * noise(*parameter.shape, seed=seed + index))
    return lm


def tokens(seed=0, length=9):
    return torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(seed))


def apart(lm, model):
    """The same model with weights of its own in every place: W + B A of the shared one."""
    blocks = {
        name: {k: v for k, v in b.items() if not k.startswith(("shared", "adapter"))}
        for name, b in model["blocks"].items()
    }
    other = HybridLM(load_model(model | {"blocks": blocks}), lm.context)
    weights = {
        name: tensor for name, tensor in lm.state_dict().items() if "shared" not in name and "adapters" not in name
    }
    for index, block in enumerate(lm.spec.blocks):
        if block.options.shared:
            for name, tensor in lm.shared[block.name].state_dict().items():
                weights[f"blocks.{index}.{name}"] = tensor.clone()
            for layer, adapters in lm.blocks[str(index)].adapters.items():
                for name, change in low_rank(adapters):
                    weights[f"blocks.{index}.branches.{layer}.{name}"] += change
    other.load_state_dict(weights)
    return other


def low_rank(adapters):
    """B A of each weight that is adapted."""
    parts = dict(adapters.named_parameters())
    for group in (name[2:] for name in parts if name.startswith("A_")):
        for name in group.split("_"):
            yield name, (parts[f"B_{name}"] @ parts[f"A_{group}"]).detach()


@given(seed=seeds)
def test_a_shared_block_is_the_same_block_in_every_place(seed):
    model = models.zamba2()
    lm, rows = build(model, seed), tokens(seed)
    other = apart(lm, model)
    torch.testing.assert_close(lm(rows), other(rows), rtol=1e-12, atol=1e-12)
    for each in (lm, other):
        each(rows, rows.roll(-1, 1)).sum().backward()
    for name, shared in lm.shared.named_parameters():
        block, _, weight = name.partition(".")
        places = [index for index, spec in enumerate(lm.spec.blocks) if spec.name == block]
        total = sum(other.get_parameter(f"blocks.{place}.{weight}").grad for place in places)
        torch.testing.assert_close(shared.grad, total, rtol=1e-10, atol=1e-10 * total.abs().max().item())


def test_shared_weights_have_one_name_each():
    names = [name for name, _ in build(models.zamba2()).named_parameters()]
    assert names.count("shared.attend.branches.attn.q") == 1
    assert sum(name.endswith("attn.q") for name in names) == 1
    assert "blocks.1.adapters.attn.B_q" in names and "blocks.5.adapters.attn.B_q" in names
    assert names == list(build(models.zamba2()).state_dict())


@given(seed=seeds)
def test_a_stage_has_the_shared_blocks_that_stand_on_it_with_the_same_weights(seed):
    from eyas.layers.model import Stage

    spec = load_model(models.zamba2())
    whole, first = HybridLM(spec).initialise(seed), HybridLM(spec, stage=Stage(range(1), True, False)).initialise(seed)
    assert not list(first.shared)
    last = HybridLM(spec, stage=Stage(range(1, 8), False, True)).initialise(seed)
    for name, parameter in last.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))


@given(seed=seeds)
def test_the_normalised_mean_is_the_mean_of_normalised_branches(seed):
    lm = build(models.hymba(), seed)
    block, h, context = lm.blocks["0"], noise(9, 2, 16, seed=seed).requires_grad_(), lm.context
    x = rms_norm(h, block.norm.weight, 1e-5)
    attn, ssm = block.branches["attn"], block.branches["ssm"]
    outputs = {"attn": attn(x, context), "ssm": ssm(x, context) + ssm.output_bias}
    mean = (
        sum(
            y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-5) * block.branch_norms[name].weight
            for name, y in outputs.items()
        )
        / 2
    )
    torch.testing.assert_close(block(h, context), h + mean @ block.projection.t(), rtol=1e-12, atol=1e-12)


@given(meta_tokens=st.integers(1, 5), multiplier=st.sampled_from([None, 2.0]), seed=seeds)
def test_meta_tokens_are_tokens_before_the_text_that_no_window_hides(meta_tokens, multiplier, seed):
    model = models.hymba(meta_tokens=meta_tokens, embedding_multiplier=multiplier)
    lm, rows = build(model, seed), tokens(seed)
    layers = model["layers"] | {"near": model["layers"]["near"] | {"sink_tokens": meta_tokens}}
    longer = HybridLM(
        load_model(model | {"layers": layers, "meta_tokens": 0, "vocab_size": 50 + meta_tokens}), lm.context
    )
    weights = lm.state_dict()
    meta_ND = weights.pop("meta_tokens")
    weights["embedding.weight"] = torch.cat([weights["embedding.weight"], meta_ND])
    weights["head.weight"] = torch.cat([weights["head.weight"], meta_ND])
    longer.load_state_dict(weights)
    front = torch.arange(50, 50 + meta_tokens).expand(2, -1)
    expected = longer(torch.cat([front, rows], 1))[meta_tokens:, :, :50]
    torch.testing.assert_close(lm(rows), expected, rtol=1e-12, atol=1e-12)
    for logits in (lm(rows), expected):
        (logits * noise(*logits.shape, seed=seed)).sum().backward()
    torch.testing.assert_close(lm.meta_tokens.grad, longer.embedding.weight.grad[50:], rtol=1e-10, atol=1e-10)


def test_packed_documents_behind_meta_tokens_are_refused():
    rows = tokens()
    with pytest.raises(ConfigError, match="meta tokens stand in front of a row"):
        build(models.hymba())(rows, documents_BS=torch.zeros_like(rows))


def test_a_layer_cannot_read_two_widths():
    model = models.zamba2()
    with pytest.raises(
        ConfigError, match=r"model.layers.attn \(attention\) reads a width of 16, but block attend gives 32"
    ):
        load_model(model | {"pattern": ["attend", "think", "attn"]})
