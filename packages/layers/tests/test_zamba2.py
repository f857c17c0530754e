"""Shared blocks make Zamba2: logits, every gradient and decoding equal Hugging Face's implementation."""

import pytest
import torch
import torch.nn.functional as F

from eyas.core.accounting import parameters
from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.layers.hf_families import family_of_model
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import correspondences
from eyas.layers.hf_zamba2 import ZAMBA2
from eyas.layers.model import HybridLM

transformers = pytest.importorskip("transformers")

RELATIVE = 1e-5
"""Of the largest entry of a tensor, in float32; see test_hf_falcon_h1."""
LAYERS = {
    1: ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    2: ["hybrid", "linear_attention", "hybrid", "hybrid", "linear_attention"],
}
COMBINATIONS = [(1, False, False), (1, True, True), (2, False, True), (2, True, False)]
"""Every pair of choices: memory blocks, adapters of attention, rotary positions."""


def their_model(*, memories, adapters, rope, groups=1, biases=False, seed=0):
    """A random small Zamba2ForCausalLM with norms and biases away from their start. Its head is tied: otherwise
    transformers 5.23 does not tie the shared blocks either."""
    config = transformers.Zamba2Config(
        vocab_size=61, hidden_size=16, num_hidden_layers=len(LAYERS[memories]), layers_block_type=LAYERS[memories],
        intermediate_size=24, num_attention_heads=4, num_key_value_heads=4, n_mamba_heads=4, mamba_d_state=6,
        mamba_ngroups=groups, mamba_expand=2, chunk_size=8, num_mem_blocks=memories, adapter_rank=3,
        use_shared_attention_adapter=adapters, use_mem_rope=rope, add_bias_linear=biases,
        initializer_range=0.1, time_step_min=1e-3,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.Zamba2ForCausalLM(config).train()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
            if name.endswith("dt_bias"):
                parameter.clamp_(min=-4.0)  # above the bound of dt, behind which no gradient flows
    return model


def our_tensors(spec, theirs):
    """Ours, of tensors of theirs among which are copies of the shared ones."""
    ours = {}
    for name, tensor in correspondences(ZAMBA2, spec).items():
        for own, shape in zip(tensor.ours, tensor.shapes, strict=True):
            ours[own] = torch.empty(shape)
        tensor.read(theirs[name], ours)
    return ours


def our_model(theirs):
    spec = load_model(model_data(ZAMBA2, from_json(theirs.config.to_json_string())))
    model = HybridLM(spec)
    model.load_state_dict(our_tensors(spec, theirs.state_dict()))
    return model


def assert_close(actual, expected, name):
    difference = (actual - expected).abs().max() / expected.abs().max()
    assert difference <= RELATIVE, f"{name}: relative difference {difference:.2e}"


@pytest.mark.parametrize(("memories", "adapters", "rope"), COMBINATIONS)
def test_logits_and_gradients_equal_hugging_face(memories, adapters, rope):
    theirs = their_model(memories=memories, adapters=adapters, rope=rope, groups=memories, biases=rope)
    ours = our_model(theirs)
    assert parameters(ours.spec) == sum(parameter.numel() for parameter in theirs.parameters())
    tokens, labels = torch.randint(1, 61, (2, 2, 21), generator=torch.Generator().manual_seed(3))
    expected, actual = theirs(input_ids=tokens).logits, ours(tokens).transpose(0, 1)
    assert_close(actual, expected, "logits")
    for logits in (expected, actual):
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    mapped = our_tensors(ours.spec, gradients)
    assert mapped.keys() == dict(ours.named_parameters()).keys()
    for name, gradient in mapped.items():
        assert_close(ours.get_parameter(name).grad, gradient, name)


def test_decoding_equals_hugging_face():
    theirs = their_model(memories=2, adapters=True, rope=True).eval()
    ours, tokens = our_model(theirs), torch.randint(1, 61, (2, 9))
    states, logits = ours.initial_state(2), []
    with torch.no_grad():
        for t in range(tokens.shape[1]):
            logits_BV, states = ours.step(tokens[:, t], states)
            logits.append(logits_BV)
        assert_close(torch.stack(logits, 1), theirs(input_ids=tokens).logits, "logits")


def changed(model, name, **options):
    return model | {"blocks": model["blocks"] | {name: model["blocks"][name] | options}}


def test_other_names_are_exported_and_other_blocks_are_refused():
    theirs = their_model(memories=2, adapters=True, rope=False)
    model = model_data(ZAMBA2, from_json(theirs.config.to_json_string()))
    renamed = {name.replace("attend0", "first"): block for name, block in model["blocks"].items()}
    named = model | {"blocks": renamed, "pattern": model["pattern"].replace("attend0", "first")}
    assert family_of_model(load_model(named)) == family_of_model(load_model(model))
    for name, options in {"think1": {"projection": False}, "attend0": {"output_multiplier": 0.5}}.items():
        with pytest.raises(ConfigError, match=f"zamba2: model.blocks.{name} has to be .* in a zamba2"):
            family_of_model(load_model(changed(model, name, **options)))
    first, second = ["attend0", "think0", "ssm"], ["attend1", "think1", "ssm"]
    out_of_turn = model | {"pattern": first + first + second}
    with pytest.raises(ConfigError, match="zamba2: model.blocks"):
        family_of_model(load_model(out_of_turn))
