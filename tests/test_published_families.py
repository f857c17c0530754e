"""The comparison models of conf/ have the published numbers of parameters; nothing is allocated."""

import pytest

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
}
ACTIVE = {
    "nemotron3_nano": 3_227_751_872 + 131_072 * 2_688,
    "nemotron3_super": 12_770_216_960,
    "nemotron3_ultra": 56_058_818_560,
}
"""Nano's is published without the input embedding."""
BILLIONS = {
    "jamba_v0.1": (51.57, 12.11),
    "mixtral_8x22b": (140.63, 39.16),
    "qwen2_57b_a14b": (57.41, 14.25),
    "deepseek_v3": (671.03, 37.55),
}
"""Printed with two digits."""


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
