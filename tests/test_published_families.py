"""The comparison models of conf/ have the published numbers of parameters; nothing is allocated."""

import pytest
import torch

from eyas.core.accounting import active_parameters, parameters
from eyas.core.model import load_model
from eyas.experiments.catalogue import models

EXACT = {
    "mamba2_hybrid_8b": 8_654_517_248,
    "nemotron_h_4b": 4_489_223_040,
    "nemotron_h_8b": 8_100_852_736,
    "nemotron_h_47b": 46_791_554_816,
    "nemotron_h_56b": 56_324_350_464,
    "nemotron_nano2_9b": 8_888_227_328,
    "nemotron_nano2_12b": 12_310_001_152,
    "nemotron3_nano": 31_577_937_344,
    "nemotron3_super": 120_668_687_360,
    "nemotron3_ultra": 549_308_968_960,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "granite4_hybrid_small": 32_207_337_984,
    "qwen3_30b_a3b": 30_532_122_624,
}
ACTIVE = {
    "nemotron3_nano": 3_227_751_872 + 131_072 * 2_688,
    "nemotron3_super": 12_770_216_960,
    "nemotron3_ultra": 56_058_818_560,
    "granite4_hybrid_small": EXACT["granite4_hybrid_small"] - 40 * (72 - 10) * 3 * 4_096 * 768,
    "qwen3_30b_a3b": EXACT["qwen3_30b_a3b"] - 48 * (128 - 8) * 3 * 2_048 * 768,
}
"""Nano's is published without the input embedding; the last two are the total but for idle experts of printed sizes."""
BILLIONS = {
    "jamba_v0.1": (51.57, 12.11),
    "mixtral_8x22b": (140.63, 39.16),
    "qwen2_57b_a14b": (57.41, 14.25),
    "deepseek_v3": (671.03, 37.55),
}
"""Printed with two digits."""
MAMBA = {
    "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4,
    "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_expand": 2,
}  # fmt: skip
CONFIGURATIONS = {
    "falcon_h1_90m": ("FalconH1", MAMBA | {
        "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "intermediate_size": 768, "mamba_d_ssm": 768, "mamba_n_heads": 24, "mamba_d_head": 32, "mamba_d_state": 64,
        "mamba_rms_norm": False, "vocab_size": 32_768, "tie_word_embeddings": True,
    }),
    "bamba_9b": ("Bamba", MAMBA | {
        "hidden_size": 4_096, "num_hidden_layers": 32, "attn_layer_indices": [9, 18, 27], "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 128_256, "tie_word_embeddings": False,
    }),
    "granite4_hybrid_small": ("GraniteMoeHybrid", MAMBA | {
        "hidden_size": 4_096, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
        "layer_types": ["attention" if layer in (5, 15, 25, 35) else "mamba" for layer in range(40)],
        "num_local_experts": 72, "num_experts_per_tok": 10, "intermediate_size": 768, "shared_intermediate_size": 1_536,
        "vocab_size": 100_352, "tie_word_embeddings": True,
    }),
    "qwen3_30b_a3b": ("Qwen3Moe", {
        "hidden_size": 2_048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "intermediate_size": 6_144, "vocab_size": 151_936, "tie_word_embeddings": False,
    }),
    "mamba2_2.7b": ("Mamba2", {
        "hidden_size": 2_560, "num_hidden_layers": 64, "num_heads": 80, "head_dim": 64, "state_size": 128,
        "n_groups": 1, "vocab_size": 50_288, "tie_word_embeddings": True,
    }),
}  # fmt: skip
"""Published config.json files, as far as they change sizes: the family in transformers, and its options."""
SAMBA = {
    "samba_421m": ("421", 1e6, (1_536, 12, 12, 12, 4_096)),
    "samba_1.3b": ("1.3", 1e9, (2_304, 18, 18, 18, 6_144)),
    "samba_1.7b": ("1.7", 1e9, (2_048, 24, 32, 4, 8_196)),
    "samba_3.8b": ("3.8", 1e9, (2_816, 32, 11, 1, 9_984)),
}
"""The size in the name, cut after its last digit; width, mixers, heads, key heads, and width of feed-forward layers."""
HYMBA = 1_522_797_824
"""Of the released weights."""


@pytest.fixture(scope="module")
def specs():
    return models()


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_the_published_ones_to_the_last_digit(specs, name):
    assert parameters(specs[name]) == EXACT[name]


@pytest.mark.parametrize("shared", [False, True])
def test_idle_experts_of_a_shared_block_are_counted_once_as_its_weights_are(shared):
    experts = {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8}
    block = {"layers": "moe", "shared": shared}
    model = {"hidden_size": 8, "vocab_size": 11, "layers": {"moe": experts}, "blocks": {"once": block}}
    spec = load_model(model | {"pattern": ["once"] * 3})
    moe = spec.layers["moe"]
    idle = moe.parameters(8) - moe.active_parameters(8)
    assert idle > 0
    assert parameters(spec) - active_parameters(spec) == idle * (1 if shared else 3)


@pytest.mark.parametrize("name", EXACT)
def test_active_parameters_are_the_published_ones(specs, name):
    assert active_parameters(specs[name]) == ACTIVE.get(name, EXACT[name])


@pytest.mark.parametrize("name", BILLIONS)
def test_parameters_are_the_published_billions(specs, name):
    spec, (total, active) = specs[name], BILLIONS[name]
    assert parameters(spec) / 1e9 == pytest.approx(total, abs=0.005)
    assert active_parameters(spec) / 1e9 == pytest.approx(active, abs=0.005)


def by_transformers(family, options):
    """Parameters of transformers' own class."""
    architecture = getattr(pytest.importorskip("transformers"), f"{family}ForCausalLM")
    with torch.device("meta"):
        model = architecture(architecture.config_class(**options))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parameters_are_those_that_transformers_has_for_the_published_configuration(specs, name):
    assert parameters(specs[name]) == by_transformers(*CONFIGURATIONS[name])


def test_attention_stands_in_for_six_layers_of_mamba2(specs):
    family, options = CONFIGURATIONS["mamba2_2.7b"]
    attention = 4 * 2_560 * 30 * 128 + 2_560
    without = by_transformers(family, options | {"num_hidden_layers": 58})
    assert parameters(specs["mamba2_attention_2.7b"]) == without + 6 * attention
    blocks = specs["mamba2_attention_2.7b"].pattern.blocks
    assert [at for at, block in enumerate(blocks) if block != ("ssm",)] == [9, 18, 27, 36, 45, 56]


@pytest.mark.parametrize("name", SAMBA)
def test_samba_is_a_jamba_without_norms_inside_mamba(specs, name):
    printed, unit, (width, mixers, heads, key_heads, inner) = SAMBA[name]
    jamba = {
        "hidden_size": width, "num_hidden_layers": mixers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "intermediate_size": inner, "attn_layer_period": 2, "attn_layer_offset": 1,
        "num_experts": 1, "vocab_size": 32_000, "tie_word_embeddings": True,
    }  # fmt: skip
    norms = mixers // 2 * (width // 16 + 2 * 16)
    assert parameters(specs[name]) == by_transformers("Jamba", jamba) - norms
    assert str(parameters(specs[name]) / unit).startswith(printed)


def test_hymba_has_the_published_parameters_but_for_what_its_file_tells(specs):
    """Hymba has one output projection behind both mixers, so that its two norms stand before it and are as wide as
    Mamba, and so are its values, in the 17 of 32 layers that do not borrow them."""
    spec, width, narrow, wide = specs["hymba_1.5b"], 1_600, 25 * 64, 3_200
    assert [block.name for block in spec.blocks].count("again") == 32 - 17
    values = 17 * width * 5 * (wide - narrow) // 25
    assert parameters(spec) - 32 * narrow * width + 32 * 2 * (wide - width) + values == HYMBA
