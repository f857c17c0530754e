"""Every family equals transformers' implementation, and what is read in is written out unchanged."""

import tempfile

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from eyas.core.errors import CheckpointError, ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.hf import Part
from eyas.layers.hf_families import family_of_config, family_of_model
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import expand, our_tensors, their_tensors
from eyas.layers.model import HybridLM
from eyas.parallel.context import Context

transformers = pytest.importorskip("transformers")
import parity  # noqa: E402
from hf_models import DRAWN, VOCABULARY, their_model  # noqa: E402

RELATIVE = 1e-9
"""Of the largest entry of a tensor, in float64: rounding alone, with models as in training (see their_model)."""
IN_FLOAT32 = 1e-5
WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
every_family = pytest.mark.parametrize("name", DRAWN)


def as_file(config):
    """A configuration as transformers writes it."""
    return from_json(config.to_json_string())


def tensors_on_disk(model):
    """What `save_pretrained` writes, by its names."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def our_model(theirs):
    family = family_of_config(as_file(theirs.config))
    spec = load_model(model_data(family, as_file(theirs.config)))
    model = HybridLM(spec, Context(Placement(dtype=next(theirs.parameters()).dtype)))
    model.load_state_dict(our_tensors(family, spec, tensors_on_disk(theirs)))
    return model, family, spec


def assert_close(actual, expected, name, relative=RELATIVE, like=None):
    """Relative to the largest entry of `like`, or of what is expected."""
    scale = (expected if like is None else like).abs().max()
    difference = (actual - expected).abs().max() / scale.clamp(min=1e-12)
    assert difference <= relative, f"{name}: relative difference {difference:.2e}"


@every_family
@settings(max_examples=settings().max_examples // 2, phases=WITHOUT_SHRINKING)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_logits_and_gradients_equal_transformers(name, data, seed):
    drawn = data.draw(DRAWN[name])
    with parity.float64():
        theirs = their_model(drawn, seed).double()
    theirs.config._experts_implementation = "eager"  # the grouped one knows no float64
    ours, family, spec = our_model(theirs)
    tokens, labels = random_tokens(seed)
    with parity.float64():
        expected = theirs(input_ids=tokens, use_cache=False).logits
    actual = ours(tokens).transpose(0, 1)
    assert_close(actual, expected, "logits")
    assert_same_gradients((theirs, expected), (ours, actual), [labels], family, spec)


@every_family
@settings(phases=WITHOUT_SHRINKING)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_logits_and_gradients_in_float32_equal_transformers(name, data, seed):
    assert_same_in_float32(name, data, seed, losses=4)


@every_family
@settings(max_examples=4, phases=WITHOUT_SHRINKING, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_each_gradient_of_one_loss_in_float32_equals_transformers(name, data, seed):
    """The same draws as long as this test and hypothesis are. Of others one in five hundred has a gradient of a few
    entries, a decay's say, that cancels so far that float32 keeps fewer digits than are asked for, here as there."""
    assert_same_in_float32(name, data, seed, losses=1)


def assert_same_in_float32(name, data, seed, losses):
    """Raises AssertionError unless logits, and the gradients of each of some losses, agree as both are used:
    transformers' with its own kernels."""
    theirs = their_model(data.draw(DRAWN[name]), seed)
    ours, family, spec = our_model(theirs)
    tokens, *labels = random_tokens(seed, 1 + losses)
    expected = theirs(input_ids=tokens, use_cache=False).logits
    actual = ours(tokens).transpose(0, 1)
    assert_close(actual, expected, "logits", IN_FLOAT32)
    assert_same_gradients((theirs, expected), (ours, actual), labels, family, spec, IN_FLOAT32)


def assert_same_gradients(theirs, ours, labels, family, spec, relative=RELATIVE):
    """Of the cross-entropy with each of the labels, in each model with its logits. A gradient of a few entries, as of
    decays, may cancel nearly to nothing: it is held against the largest that the tensor has with any of the labels."""
    expected = [their_gradients(*theirs, each, family, spec) for each in labels]
    for each, gradients in zip(labels, expected, strict=True):
        found = gradients_of(*ours, each)
        for name, gradient in gradients.items():
            if not name.endswith("selection_bias"):
                # without positions a bias of the keys shifts all scores of a query alike, to no effect
                like = torch.stack([other[name.replace("k_bias", "q_bias")] for other in expected])
                assert_close(found[name], gradient, name, relative, like)


def gradients_of(model, logits, labels):
    """Of the cross-entropy, by the names of the parameters."""
    model.zero_grad()
    F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward(retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


def their_gradients(model, logits, labels, family, spec):
    """The same of transformers' model, by our names."""
    gradients, weights = gradients_of(model, logits, labels), dict(model.named_parameters())
    kept = {name: weight.data for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.data = gradients[name]
    found = our_tensors(family, spec, tensors_on_disk(model))
    for name, weight in weights.items():
        weight.data = kept[name]
    return found


def random_tokens(seed, rows=2):
    """Tokens and labels, each (B, S)."""
    return torch.randint(0, VOCABULARY, (rows, 2, 21), generator=torch.Generator().manual_seed(seed))


@every_family
@settings(max_examples=settings().max_examples // 2, phases=WITHOUT_SHRINKING)
@given(data=st.data())
def test_reading_and_writing_gives_the_same_tensors_and_the_same_model(name, data):
    theirs = their_model(data.draw(DRAWN[name]), seed=1)
    ours, family, spec = our_model(theirs)
    written = their_tensors(family, spec, ours.state_dict())
    expected = tensors_on_disk(theirs)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)
    again, config = family_of_model(spec)
    assert again is family
    options = type(theirs.config).from_dict(config)
    model = type(theirs)(options).train()
    model.load_state_dict(theirs.state_dict())
    tokens = torch.arange(20)[None]
    assert_close(model(tokens, use_cache=False).logits, theirs(tokens, use_cache=False).logits, "logits", IN_FLOAT32)
    assert model_data(family, config) == model_data(family, as_file(theirs.config))


@every_family
@settings(max_examples=settings().max_examples // 2, phases=WITHOUT_SHRINKING)
@given(data=st.data())
def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(name, data):
    theirs = their_model(data.draw(DRAWN[name]), seed=0)
    _, family, spec = our_model(theirs)
    state = tensors_on_disk(theirs)
    first = sorted(state)[-1]
    with pytest.raises(CheckpointError, match=f"{first!r} is missing"):
        our_tensors(family, spec, {key: value for key, value in state.items() if key != first})
    with pytest.raises(CheckpointError, match="'model.extra' has no place"):
        our_tensors(family, spec, {**state, "model.extra": torch.zeros(1)})
    our_tensors(family, spec, {**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=f"{first!r} has shape"):
        our_tensors(family, spec, {**state, first: torch.zeros(3, 5)})


LAYERS = {
    "attn": {"kind": "attention", "num_heads": 2, "head_dim": 4},
    "local": {"kind": "attention", "num_heads": 2, "head_dim": 4, "window": 8},
    "ssm": {"kind": "mamba2", "num_heads": 2, "head_dim": 4, "state_size": 4},
    "ffn": {"kind": "mlp", "intermediate_size": 8},
    "nope": {"kind": "attention", "num_heads": 2, "head_dim": 4, "rope_base": None},
    "mamba": {"kind": "mamba1", "inner_size": 8, "dt_rank": 2, "inner_norms": True, "norm_epsilon": 1e-5},
    "relu": {"kind": "mlp", "intermediate_size": 8, "activation": "squared_relu", "gated": False},
}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (["ssm+ffn"], r"falcon_h1: model.pattern: blocks from 0 on are \[mamba2\+mlp\]"),
        (
            ["attn", "ffn", "attn+ssm"],
            r"llama: model.pattern: blocks from 2 on are \[attention\+mamba2\], but a layer of llama is",
        ),
        (["local", "ffn"], "llama: attention.window=8 cannot be expressed by llama"),
        (["attn", "ffn", "local", "ffn"], "llama: model.layers.attn and local are attention layers with different"),
        (["attn", "relu"], "llama: mlp.gated=False cannot be expressed by llama"),
        (
            ["once", "ffn"],
            r"falcon_h1: model.blocks.once has options, which falcon_h1 has not \(nor has any of 1\d others\)",
        ),
        (
            ["nope", "ffn", "mamba", "ffn", "nope", "ffn", "nope", "ffn"],
            r"jamba: .*attention in layers \[0, 2, 3\] of 4",
        ),
        (
            "attn, ffn / attn, ffn",
            r"llama: model.pattern has a tail after '/', which llama has not \(nor has any of \d+ others\)",
        ),
    ],
)
def test_a_model_of_no_family_is_refused_with_the_reason_of_the_one_whose_name_is_nearest(pattern, reason):
    blocks = {"once": {"layers": "attn", "shared": True}}
    model = {"hidden_size": 8, "vocab_size": 11, "layers": LAYERS, "pattern": pattern, "blocks": blocks}
    spec = load_model(model | {"name": f"{reason.partition(':')[0]}_tiny"})
    with pytest.raises(ConfigError, match=f"no family of Hugging Face's can hold this model; {reason}"):
        family_of_model(spec)


def test_meta_tokens_are_refused_and_names_of_blocks_are_not():
    model = {"hidden_size": 8, "vocab_size": 11, "layers": LAYERS, "pattern": ["named", "ffn"]}
    model |= {"blocks": {"named": {"layers": "attn"}}}
    assert family_of_model(load_model(model))[0].model_type == "llama"
    with pytest.raises(ConfigError, match="meta_tokens=2 cannot be expressed by llama"):
        family_of_model(load_model(model | {"meta_tokens": 2}))


def test_what_trains_a_model_alone_does_not_hinder_its_export():
    model = {"hidden_size": 8, "vocab_size": 11, "layers": LAYERS, "pattern": ["attn", "ffn"], "dropout": 0.1}
    assert family_of_model(load_model(model))[0].model_type == "llama"


@pytest.mark.parametrize(
    ("config", "option", "known", "other"),
    [
        (transformers.Mamba2Config(), "rms_norm", True, False),
        (transformers.BambaConfig(hidden_size=512, num_attention_heads=4), "attn_rotary_emb", 64, 32),
    ],
)
def test_options_that_published_files_have_beside_transformers_own_are_known(config, option, known, other):
    config = as_file(config)
    config.pop(option, None)
    family = family_of_config(config)
    assert model_data(family, config | {option: known}) == model_data(family, config)
    with pytest.raises(ConfigError, match=f"{option}={other} is not supported"):
        model_data(family, config | {option: other})


@pytest.mark.parametrize(
    ("config", "further"),
    [
        (transformers.Mamba2Config(), {"auto_map": {"AutoConfig": "configuration_mine.MyConfig"}}),
        (
            transformers.Mamba2Config(),
            {
                "intermediate_size": 8192, "norm_before_gate": True, "time_step_init_scheme": "random",
                "time_step_scale": 1.0, "time_step_limit": None,
            },
        ),
        (
            transformers.Zamba2Config(num_hidden_layers=2, layers_block_type=["mamba", "hybrid"]),
            {"time_step_limit": None, "use_shared_mlp_adapter": False},
        ),
        (transformers.FalconH1Config(ssm_multipliers=[1.0] * 5), {"ssm_multipliers": None, "attn_layer_indices": None}),
        (transformers.NemotronHConfig(layers_block_type=["mamba"]), {"time_step_rank": 256}),
    ],
)  # fmt: skip
def test_published_files_say_more_than_transformers_reads(config, further):
    config = as_file(config)
    family = family_of_config(config)
    assert model_data(family, config | further) == model_data(family, config)


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (transformers.Qwen2MoeConfig, "decoder_sparse_step"),
        (transformers.GraniteMoeHybridConfig, "logits_scaling"),
        (transformers.Zamba2Config, "num_mem_blocks"),
        (transformers.BambaConfig, "num_attention_heads"),
    ],
)
def test_a_size_of_zero_is_named(config, option):
    config = as_file(config())
    with pytest.raises(ConfigError, match=f"^config.json: {option}=0 must not be 0, as others are divided by it$"):
        model_data(family_of_config(config), config | {option: 0})


DEEPSEEK = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "n_routed_experts": 8}
NEMOTRON = {"layers_block_type": ["moe"]}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (transformers.MixtralConfig, {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not supported"),
        (transformers.Qwen2MoeConfig, {"use_sliding_window": True}, "layer_types has 'sliding_attention'"),
        (transformers.DeepseekV3Config, {"norm_topk_prob": False}, "norm_topk_prob=False is not supported"),
        (
            transformers.DeepseekV3Config,
            {"num_experts_per_tok": 3},
            "num_experts_per_tok=3 is not supported with topk_",
        ),
        (transformers.DeepseekV3Config, {"n_shared_experts": 0}, "n_shared_experts=0 is not supported"),
        (
            transformers.DeepseekV3Config,
            {"num_key_value_heads": 1},
            "num_key_value_heads=1 must be num_attention_heads",
        ),
        (transformers.DeepseekV3Config, {"head_dim": 32}, "head_dim=32 must be 64"),
        (transformers.DeepseekV3Config, {"qk_head_dim": 32}, "qk_head_dim=32 must be 192"),
        (transformers.NemotronHConfig, {"mlp_bias": True}, "mlp_bias=True is not supported with layers of experts"),
        (transformers.NemotronHConfig, {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers=1 is not supported"),
    ],
)
def test_experts_that_would_choose_or_weigh_otherwise_are_refused_by_name(config, options, message):
    usual = {transformers.DeepseekV3Config: DEEPSEEK, transformers.NemotronHConfig: NEMOTRON}.get(config, {})
    config = as_file(config(**usual | options))
    with pytest.raises(ConfigError, match=f"^config.json: {message}"):
        model_data(family_of_config(config), config)


EXPERTS = {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8}
BIASED = EXPERTS | {"score": "sigmoid", "selection_bias_rate": 1e-3, "shared_size": 8}


@pytest.mark.parametrize(
    ("experts", "pattern", "message"),
    [
        (BIASED | {"selection_bias_rate": None}, "mla moe", "moe.selection_bias_rate=null cannot be expressed"),
        (BIASED | {"shared_size": 12}, "mla moe", "moe.shared_size=12 must be a multiple of intermediate_size=8"),
        (BIASED, "mla moe mla ffn", "in deepseek_v3 the layers without experts come first"),
        (BIASED | {"shared_size": None}, "attn moe", "moe.score=sigmoid cannot be expressed"),
        (EXPERTS | {"capacity_factor": 1.0}, "attn moe", "mixtral: moe.capacity_factor=1.0 cannot be expressed"),
        (EXPERTS | {"shared_size": 8}, "attn moe ssm ffn", "either all layers have experts, or none has"),
        (EXPERTS, "nope moe", "mixtral: attention.rope_base=null cannot be expressed"),
        (EXPERTS, "ssm moe", "moe.shared_size=null cannot be expressed by granitemoehybrid"),
    ],
)
def test_experts_that_no_family_has_are_refused_with_the_reason(experts, pattern, message):
    latent = {"kind": "mla", "num_heads": 2, "kv_lora_rank": 4}
    layers = {**LAYERS, "moe": experts, "mla": latent, "nope": LAYERS["attn"] | {"rope_base": None}}
    spec = load_model({"hidden_size": 8, "vocab_size": 11, "layers": layers, "pattern": pattern.split()})
    with pytest.raises(ConfigError, match=message):
        family_of_model(spec)


@given(experts=st.integers(1, 4), parts=st.integers(1, 3))
def test_tensors_of_single_experts_are_stacked_and_taken_apart(experts, parts):
    names = tuple("abc"[:parts])
    ours = {f"moe.{name}": torch.randn(experts, 2 + index, 3) for index, name in enumerate(names)}
    shapes = {name: ours[f"moe.{name}"].shape for name in names}
    table = list(expand(Part("experts.{}.w", names), "layer.", "moe.", shapes))
    assert [tensor.theirs for tensor in table] == [f"layer.experts.{number}.w" for number in range(experts)]
    again = {name: torch.zeros_like(tensor) for name, tensor in ours.items()}
    for number, tensor in enumerate(table):
        theirs = tensor.write(ours)
        assert torch.equal(theirs, torch.cat([part[number] for part in ours.values()]))
        tensor.read(theirs, again)
    assert all(torch.equal(again[name], ours[name]) for name in ours)
