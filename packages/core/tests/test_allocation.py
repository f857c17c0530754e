"""Channels are divided as Falcon-H1's report divides them, or refused by name."""

import pytest

from eyas.core.allocation import AllocationConfig, Order, allocated, every_division
from eyas.core.errors import ConfigError
from eyas.core.schema import load

MODEL = {
    "hidden_size": 64,
    "pattern": ["ssm"],
    "layers": {"ssm": {"head_dim": 64}, "attn": {"head_dim": 64}, "ffn": {}},
}


def test_there_are_21_divisions_of_eight_parts() -> None:
    divisions = every_division()
    assert len(set(divisions)) == 21
    assert {sum(parts) for parts in divisions} == {8}
    assert min(min(parts) for parts in divisions) == 1


def test_the_published_division_has_the_published_widths() -> None:
    model = allocated(AllocationConfig(shares=(2, 1, 5)), MODEL)
    layers = model["layers"]
    assert model["hidden_size"] == 1280
    assert layers["ssm"]["num_heads"] * 64 == 1024
    assert layers["attn"]["num_heads"] * 64 == 768
    assert layers["attn"]["num_kv_heads"] * 3 == layers["attn"]["num_heads"]
    assert layers["ffn"]["intermediate_size"] == 3040
    assert MODEL["hidden_size"] == 64


@pytest.mark.parametrize(
    ("order", "pattern"),
    [("SAM", ["ssm+attn+ffn"]), ("SA_M", ["ssm+attn", "ffn"]), ("S_A_M", ["ssm", "attn", "ffn"])],
)
def test_an_order_is_a_pattern(order: Order, pattern: list[str]) -> None:
    assert allocated(AllocationConfig(shares=(1, 1, 6), order=order, scale=4), MODEL)["pattern"] == pattern


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": [2, 1, 4]}, "must be three numbers from 1 on whose sum is 8"),
        ({"shares": [0, 3, 5]}, "must be three numbers from 1 on whose sum is 8"),
        ({"scale": 3}, "scale=3 must divide an eighth of every width"),
        ({"scale": 0}, "scale=0 must divide"),
    ],
)
def test_what_is_no_division_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^allocation\..*{message}"):
        load(AllocationConfig, options, "allocation")


def with_attention(**options: object) -> dict[str, object]:
    """A model whose attention has other options."""
    return MODEL | {"layers": {"ssm": {"head_dim": 64}, "attn": options, "ffn": {}}}


@pytest.mark.parametrize(
    ("model", "scale", "message"),
    [
        (MODEL, 16, r"gives layer ssm 32 channels, .* model\.layers\.ssm\.head_dim"),
        (with_attention(head_dim=96), 1, "gives layer attn 8 heads, of which every 3 share"),
        (with_attention(), 1, r"model\.layers\.attn\.head_dim is not set"),
        (with_attention(head_dim=None), 1, r"model\.layers\.attn\.head_dim is not set"),
        ({"layers": {"ssm": {}, "ffn": {}}}, 1, "the model has ssm, ffn"),
        ({}, 1, "the model has none"),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused(model: dict[str, object], scale: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allocated(AllocationConfig(shares=(1, 1, 6), scale=scale), model)
