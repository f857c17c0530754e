"""A width is solved for that makes a model cost what it has to, or the run is refused."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.accounting import active_parameters, parameters, training_flops
from eyas.core.allocation import AllocationConfig, Order, allocated, every_division
from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.core.schema import load
from eyas.experiments.cli import main
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.match import MatchConfig, Quantity, matched, nearest
from eyas.experiments.model_group import model_group

DATA = {"vocab_size": 300, "sequence_length": 64}
ROWS = (
    "transformer", "mamba2", "mamba2_hybrid", "falcon_h1", "samba", "jamba_like", "nemotron3_like", "zamba2_like"
)  # fmt: skip
COUNTS = {"parameters": parameters, "active_parameters": active_parameters}


@given(steps=st.lists(st.integers(0, 5), min_size=1, max_size=40), first=st.integers(1, 9), target=st.floats(0.5, 150))
def test_no_width_is_nearer(steps: list[int], first: int, target: float) -> None:
    costs = [first + sum(steps[:index]) for index in range(len(steps))]
    found = costs[nearest(lambda turns: costs[turns - 1], target, len(costs)) - 1]
    assert abs(found - target) == min(abs(cost - target) for cost in costs)


@pytest.mark.parametrize("quantity", ["parameters", "active_parameters", "flops"])
def test_the_model_that_is_told_costs_what_is_told(quantity: Quantity) -> None:
    match = MatchConfig(quantity=quantity, to="falcon_h1_tiny", within=0.005)
    found = matched(match, model_group("transformer_tiny", DATA), DATA)
    here, there = load_model(found.model), load_model(model_group("falcon_h1_tiny", DATA))
    if quantity == "flops":
        cost, target = training_flops(here, 64), training_flops(there, 64)
    else:
        cost, target = COUNTS[quantity](here), COUNTS[quantity](there)
    assert (found.cost, found.target) == (cost, target)
    assert cost == pytest.approx(target, rel=0.005)
    assert found.model["layers"]["ffn"]["intermediate_size"] == found.width
    assert found.width % 8 == 0


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("vocab_size", [27, 80])
def test_every_row_of_the_table_has_equal_parameters(row: str, vocab_size: int) -> None:
    stated = yaml.safe_load((conf_folder() / "experiment" / "hybrid_table.yaml").read_text())["match"]
    match = load(MatchConfig, stated, "match")
    data = DATA | {"vocab_size": vocab_size}
    found = matched(match, model_group(f"hybrid_table/{row}", data), data)
    assert parameters(load_model(found.model)) == pytest.approx(stated["to"], rel=0.02)


@pytest.mark.parametrize("order", ["SAM", "SA_M", "S_A_M"])
def test_all_divisions_of_channels_are_matched_within_half_a_percent(order: Order) -> None:
    model = model_group("falcon_h1_allocation/sixteenth", DATA)
    match = MatchConfig(quantity="parameters", to="falcon_h1_allocation/sixteenth", multiple_of=2, within=0.005)
    target, unmatched = parameters(load_model(model)), []
    for shares in every_division():
        divided = allocated(AllocationConfig(shares=shares, order=order, scale=16), model)
        unmatched.append(parameters(load_model(divided)))
        assert parameters(load_model(matched(match, divided, DATA).model)) == pytest.approx(target, rel=0.005)
    assert max(unmatched) > 1.05 * min(unmatched)  # the published points are not of one size


def test_the_model_that_divisions_are_matched_to_is_the_published_one() -> None:
    model = model_group("falcon_h1_allocation/sixteenth", DATA)
    assert allocated(AllocationConfig(shares=(2, 1, 5), scale=16), model) == model


def refused(match: dict[str, Any], model: str = "transformer_tiny") -> str:
    with pytest.raises(ConfigError) as error:
        matched(MatchConfig(**match), model_group(model, DATA), DATA)
    return str(error.value)


def test_what_cannot_be_matched_is_refused_in_a_line() -> None:
    parameters = {"quantity": "parameters", "to": 10**7}
    assert "within 2.00%; the nearest is model.layers.ffn.intermediate_size=8" in refused(parameters | {"to": 1000})
    assert "has none of layers.ffn.intermediate_size; its layers are ssm" in refused(parameters, "mamba2_tiny")
    assert "model.layers.ffn has no option 'width'" in refused(parameters | {"options": ("layers.ffn.width",)})
    assert "did you mean 'falcon_h1_tiny'" in refused(parameters | {"to": "falcon_h1_tinyy"})
    assert "is no cost; give a number above 0" in refused(parameters | {"to": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("match.quantity=parameters", "match.to=falcon_h1_tiny", "model.layers.ffn.intermediate_size=8"),
         "match.options decides what model.layers.ffn.intermediate_size=8 sets"),
        (("allocation.shares=[2,1,5]", "model.pattern=[ssm]"), "allocation.shares decides what model.pattern=[ssm]"),
        (("match.quantity=parameter",), "match.quantity: "),
    ],
)  # fmt: skip
def test_a_run_is_not_told_two_things(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--dry-run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
