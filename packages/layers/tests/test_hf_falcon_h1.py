"""Falcon-H1 equals Hugging Face's implementation in every combination of its options: logits and every gradient.

Drawn sizes, heads, biases and weights are in test_hf.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F

from eyas.core.errors import CheckpointError
from eyas.core.model import load_model
from eyas.layers.hf_falcon_h1 import FALCON_H1
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import our_tensors
from eyas.layers.model import HybridLM

transformers = pytest.importorskip("transformers")

RELATIVE = 1e-5
"""Of the largest entry of a tensor, in float32.

Rounding alone must stay well below that in either implementation, so the models are as in training: weights near their
scale at initialisation, decays of a trained Mamba-2 (Hugging Face's own dt_bias of 1 lets a state die within two
tokens), the training loss.
"""
COMBINATIONS = list(itertools.product([False, True], [False, True], [1, 2], [False, True]))


def their_model(*, norm, before_gate, groups, tied, seed):
    """A random small FalconH1ForCausalLM with multipliers away from one, and norms away from their start."""
    draw = torch.Generator().manual_seed(seed)
    multiplier = lambda: 0.5 + torch.rand((), generator=draw).item()  # noqa: E731
    config = transformers.FalconH1Config(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, intermediate_size=40, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8,
        mamba_n_groups=groups,
        mamba_d_state=12, mamba_d_conv=4, mamba_chunk_size=8, mamba_rms_norm=norm, mamba_norm_before_gate=before_gate,
        tie_word_embeddings=tied, rope_theta=1e4, embedding_multiplier=multiplier(), lm_head_multiplier=multiplier(),
        attention_in_multiplier=multiplier(), attention_out_multiplier=multiplier(), key_multiplier=multiplier(),
        ssm_in_multiplier=multiplier(), ssm_out_multiplier=multiplier(),
        ssm_multipliers=[multiplier() for _ in range(5)],
        mlp_multipliers=[multiplier(), multiplier()], initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.FalconH1ForCausalLM(config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
            if name.endswith("dt_bias"):
                parameter.sub_(3.0)
    return model


def our_model(theirs):
    spec = load_model(model_data(FALCON_H1, from_json(theirs.config.to_json_string())))
    model = HybridLM(spec)
    model.load_state_dict(our_tensors(FALCON_H1, spec, theirs.state_dict()))
    return model, spec


def assert_equal_models(theirs, seed):
    ours, spec = our_model(theirs)
    draw = torch.Generator().manual_seed(seed + 1)
    tokens, labels = torch.randint(1, 61, (2, 2, 21), generator=draw)  # 0 is their padding: no gradient reaches its row
    expected = theirs(input_ids=tokens).logits
    actual = ours(tokens).transpose(0, 1)
    assert_close(actual, expected, "logits")
    for logits in (expected, actual):
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, gradient in our_tensors(FALCON_H1, spec, their_gradients).items():
        assert_close(ours.get_parameter(name).grad, gradient, name)


def assert_close(actual, expected, name):
    difference = (actual - expected).abs().max() / expected.abs().max()
    assert difference <= RELATIVE, f"{name}: relative difference {difference:.2e}"


@pytest.mark.parametrize(("norm", "before_gate", "groups", "tied"), COMBINATIONS)
def test_logits_and_gradients_equal_hugging_face(norm, before_gate, groups, tied):
    theirs = their_model(norm=norm, before_gate=before_gate, groups=groups, tied=tied, seed=groups)
    assert_equal_models(theirs, seed=7)


def test_a_missing_and_an_unknown_tensor_are_named():
    theirs = their_model(norm=True, before_gate=False, groups=1, tied=False, seed=0)
    _, spec = our_model(theirs)
    state = theirs.state_dict()
    with pytest.raises(CheckpointError, match="model.layers.0.self_attn.q_proj.weight"):
        our_tensors(FALCON_H1, spec, {k: v for k, v in state.items() if "q_proj" not in k})
    with pytest.raises(CheckpointError, match="model.extra"):
        our_tensors(FALCON_H1, spec, {**state, "model.extra": torch.zeros(1)})
