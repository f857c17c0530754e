"""The law against the multipliers that were published with the models."""

from dataclasses import dataclass
from math import ulp

import pytest

from eyas.core.errors import ConfigError
from eyas.core.mup import FALCON_H1, LAWS, mup_law


@dataclass(frozen=True)
class Released:
    """A released Falcon-H1: its widths, and its multipliers as printed."""

    hidden: int
    heads: int
    head_dim: int
    d_ssm: int
    d_state: int
    mlp: int
    lm_head: str
    key: str
    attention_output: str
    ssm_input: str
    ssm_output: str
    mlp_gate: str
    mlp_down: str
    ssm_b: str

    def derived(self) -> dict[str, float]:
        return {
            "lm_head": FALCON_H1.lm_head(self.hidden),
            "key": FALCON_H1.key(self.hidden, self.head_dim),
            "attention_output": FALCON_H1.attention_output(self.hidden, self.heads, self.head_dim),
            "ssm_input": FALCON_H1.ssm_input(self.hidden),
            "ssm_output": FALCON_H1.ssm_output(self.d_ssm),
            "mlp_gate": FALCON_H1.mlp_gate(self.hidden),
            "mlp_down": FALCON_H1.mlp_down(self.hidden, self.mlp),
            "ssm_b": FALCON_H1.ssm_blocks(self.d_state)[2],
        }


# fmt: off
RELEASED = {
    "0.5B": Released(1024, 8, 64, 1536, 128, 2048, "0.0390625", "0.390625", "0.9375", "1.25", "0.2357022604",
                     "0.8838834765", "0.5859375", "0.35355"),
    "1.5B-Deep": Released(1280, 6, 128, 1536, 256, 3072, "0.03125", "0.1767766953", "0.5", "1.0", "0.2357022604",
                          "0.7071067812", "0.3125", "0.17678"),
    "3B": Released(2560, 10, 128, 4096, 256, 6144, "0.015625", "0.0441941738", "0.15", "0.5", "0.0883883476",
                   "0.3535533906", "0.078125", "0.17678"),
    "7B": Released(3072, 12, 128, 3072, 256, 12288, "0.0130208333", "0.0306903985", "0.1041666667", "0.4166666667",
                   "0.1178511302", "0.2946278255", "0.0325520833", "0.17678"),
    "34B": Released(5120, 20, 128, 4096, 256, 21504, "0.0078125", "0.0110485435", "0.0375", "0.25", "0.0883883476",
                    "0.1767766953", "0.0111607143", "0.17678"),
}
# fmt: on


@pytest.mark.parametrize("size", RELEASED)
def test_the_law_gives_the_released_multipliers_to_printed_precision(size):
    released = RELEASED[size]
    for name, multiplier in released.derived().items():
        printed = getattr(released, name)
        digits = len(printed.partition(".")[2])
        assert abs(multiplier - float(printed)) <= 1.001 * 10**-digits, name


def test_the_law_gives_every_digit_of_two_released_configurations():
    half = RELEASED["0.5B"].derived()
    large = RELEASED["34B"].derived()
    pairs = [
        (half["key"], 0.39062499999999994),
        (half["mlp_gate"], 0.8838834764831844),
        (half["mlp_down"], 0.5859375),
        (half["ssm_output"], 0.23570226039551587),
        (half["ssm_b"], 0.3535533905932738),
        (large["key"], 0.011048543456039804),
        (large["ssm_output"], 0.08838834764831845),
        (large["mlp_gate"], 0.1767766952966369),
        (large["mlp_down"], 0.011160714285714284),
        (FALCON_H1.embedding(), 5.656854249492381),
    ]
    for derived, released in pairs:
        assert abs(derived - released) <= ulp(released)


@pytest.mark.parametrize("d_state", [64, 128, 256])
def test_only_b_depends_on_the_state_size(d_state):
    z, x, b, c, dt = FALCON_H1.ssm_blocks(d_state)
    assert (round(z, 5), x, c, round(dt, 5)) == (0.35355, 0.25, 0.5, 0.35355)
    assert b * d_state == pytest.approx(32 * 2**0.5, rel=1e-15)


def test_the_input_of_attention_is_not_scaled():
    assert FALCON_H1.attention_input() == 1.0


def test_laws_are_named():
    assert mup_law("falcon_h1") is FALCON_H1 is LAWS["falcon_h1"]
    with pytest.raises(ConfigError, match="unknown muP law 'falconh1'; did you mean 'falcon_h1'"):
        mup_law("falconh1")
