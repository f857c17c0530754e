"""Every released Falcon-H1 in conf/ has the published parameters, multipliers and FLOPs; nothing is allocated."""

from dataclasses import dataclass
from math import gcd

import pytest

from eyas.core.accounting import parameters, training_flops
from eyas.core.errors import LayoutError
from eyas.experiments.catalogue import models
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout

ROOT2 = 2**0.5


@dataclass(frozen=True)
class Published:
    """A released model, as published."""

    parameters: int
    lm_head: str
    key: str
    attention_output: str
    ssm_input: str
    ssm_output: str
    mlp_gate: str
    mlp_down: str
    ssm_b: str = "0.17678"
    gflop_per_token: str | None = None
    """At 4,096 tokens, in training."""


# fmt: off
PUBLISHED = {
    "falcon_h1_0.5b": Published(521_411_104, "0.0390625", "0.390625", "0.9375", "1.25", "0.2357022604", "0.8838834765",
                                "0.5859375", "0.35355", "3.53"),
    "falcon_h1_1.5b": Published(1_554_863_488, "0.01953125", "0.0690533966", "0.234375", "0.625", "0.1178511302",
                                "0.4419417382", "0.1302083333"),
    "falcon_h1_1.5b_deep": Published(1_554_874_768, "0.03125", "0.1767766953", "0.5", "1.0", "0.2357022604",
                                     "0.7071067812", "0.3125", gflop_per_token="10.61"),
    "falcon_h1_3b": Published(3_149_392_384, "0.015625", "0.0441941738", "0.15", "0.5", "0.0883883476", "0.3535533906",
                              "0.078125"),
    "falcon_h1_7b": Published(7_585_654_880, "0.0130208333", "0.0306903985", "0.1041666667", "0.4166666667",
                              "0.1178511302", "0.2946278255", "0.0325520833", gflop_per_token="45.5"),
    "falcon_h1_34b": Published(33_642_516_224, "0.0078125", "0.0110485435", "0.0375", "0.25", "0.0883883476",
                               "0.1767766953", "0.0111607143", gflop_per_token="199.9"),
}
# fmt: on


@pytest.fixture(scope="module")
def specs():
    return models()


def assert_printed(value, printed, name):
    """The value is what was printed, to half a unit of its last digit."""
    digits = len(printed.partition(".")[2])
    assert abs(value - float(printed)) <= 0.5001 * 10**-digits, f"{name}: {value} is not {printed}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones_to_the_last_digit(specs, name):
    assert parameters(specs[name]) == PUBLISHED[name].parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_multipliers_are_the_published_ones(specs, name):
    spec, published = specs[name], PUBLISHED[name]
    ssm, attn, ffn = (spec.layers[layer] for layer in ("ssm", "attn", "ffn"))
    found = {
        "lm_head": spec.lm_head_multiplier,
        "key": attn.key_multiplier,
        "attention_output": attn.output_multiplier,
        "ssm_input": ssm.input_multiplier,
        "ssm_output": ssm.output_multiplier,
        "mlp_gate": ffn.gate_multiplier,
        "mlp_down": ffn.down_multiplier,
        "ssm_b": ssm.multipliers[2],
    }
    for multiplier, value in found.items():
        assert_printed(value, getattr(published, multiplier), multiplier)
    assert spec.embedding_multiplier == pytest.approx(4 * ROOT2, rel=1e-15)
    assert attn.input_multiplier == 1.0
    z, x, _, c, dt = ssm.multipliers
    assert (z, x, c, dt) == pytest.approx((ROOT2 / 4, 0.25, 0.5, ROOT2 / 4), rel=1e-15)


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.gflop_per_token])
def test_training_flops_are_the_published_ones(specs, name):
    assert_printed(training_flops(specs[name], 4096) / 1e9, PUBLISHED[name].gflop_per_token, "GFLOP")


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_are_the_released_ones(specs, name):
    spec = specs[name]
    ssm, attn, ffn = (spec.layers[layer] for layer in ("ssm", "attn", "ffn"))
    assert spec.pattern.blocks == (("ssm", "attn"), ("ffn",)) * (len(spec.pattern.blocks) // 2)
    assert ssm.gated_norm == (name != "falcon_h1_0.5b")
    unset = (ssm.norm_before_gate, spec.tie_embeddings, attn.qkv_bias, attn.output_bias, ffn.bias)
    assert not any(unset)
    assert (attn.rope_base, attn.window, attn.qk_norm) == (1e11, None, False)
    assert (ssm.conv_kernel, ssm.conv_bias, ffn.gated, ffn.activation) == (4, True, True, "silu")
    assert {spec.norm_epsilon, ssm.norm_epsilon} == {1e-5}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_ranks_as_the_heads_divide_carry_a_model(specs, name):
    spec = specs[name]
    most = gcd(spec.layers["ssm"].num_heads, spec.layers["attn"].num_heads)
    for sequence in (False, True):
        check_fits(spec, Layout(tensor=most, sequence=sequence), 4096 * 3)
    assert most > spec.layers["attn"].kv_heads or most > spec.layers["ssm"].num_groups
    with pytest.raises(LayoutError, match=f"cannot be split over layout.tensor={2 * most}"):
        check_fits(spec, Layout(tensor=2 * most), 4096)
