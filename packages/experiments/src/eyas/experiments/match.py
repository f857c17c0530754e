"""Models of equal cost: one width is solved for, so that a model has as many parameters or FLOPs as another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from eyas.core.accounting import active_parameters, parameters, training_flops
from eyas.core.errors import ConfigError
from eyas.core.model import ModelSpec, load_model
from eyas.experiments.model_group import model_group

Quantity = Literal["parameters", "active_parameters", "flops"]
WIDEST = 2**24
"""No width is looked for beyond this one."""


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """The `match` options: what a model has to cost, and which of its widths gives way."""

    quantity: Quantity | None = None
    """parameters; active_parameters, without the experts that a token does not choose; or training flops per token.
    null solves for nothing."""
    to: int | float | str | None = None
    """A number, or a model of conf/model that costs it."""
    options: tuple[str, ...] = ("layers.ffn.intermediate_size",)
    """Options below `model` that get the width; a model may lack some of their layers."""
    multiple_of: int = 8
    """What the width is a multiple of."""
    within: float = 0.02
    """The greatest relative difference that is left."""

    def __post_init__(self) -> None:
        if self.quantity is None:
            return
        if self.to is None or (not isinstance(self.to, str) and self.to <= 0):
            raise ConfigError(f"to={self.to} is no cost; give a number above 0, or the name of a model")
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of={self.multiple_of} must be at least 1")
        if not 0 <= self.within < 1:
            raise ConfigError(f"within={self.within} must be a share of at least 0 and below 1")
        if not self.options:
            raise ConfigError("options=[] names no width; give one, such as layers.ffn.intermediate_size")


@dataclass(frozen=True)
class Matched:
    """A model that costs what it has to."""

    model: dict[str, Any]
    options: tuple[str, ...]
    """Those that got the width."""
    width: int
    cost: float
    target: float

    def __str__(self) -> str:
        widths = " ".join(f"model.{option}={self.width}" for option in self.options)
        return f"{widths}: {self.cost:,.0f}, {self.cost / self.target - 1:+.2%} of {self.target:,.0f}"


def matched(match: MatchConfig, model: Mapping[str, Any], data: Mapping[str, Any]) -> Matched:
    """The plain `model` group with the multiple of `multiple_of` that comes nearest; `data` is the plain `data` group,
    which decides the vocabulary and the length. Raises ConfigError where none comes near enough."""
    assert match.quantity is not None
    cost_of = costs(match.quantity, int(data["sequence_length"]))
    target = float(cost_of(load_model(model_group(match.to, data)))) if isinstance(match.to, str) else match.to or 0.0
    options = present(match.options, model)

    def cost(turns: int) -> float:
        return cost_of(load_model(with_width(model, options, turns * match.multiple_of)))

    turns = nearest(cost, target, WIDEST // match.multiple_of)
    width = turns * match.multiple_of
    found = Matched(with_width(model, options, width), options, width, cost(turns), target)
    if abs(found.cost / target - 1) > match.within:
        raise ConfigError(
            f"match: no multiple of {match.multiple_of} gives {match.quantity} within {match.within:.2%}; the nearest "
            f"is {found}; change match.to, another width of the model, match.multiple_of or match.within"
        )
    return found


def costs(quantity: Quantity, sequence_length: int) -> Callable[[ModelSpec], float]:
    """How a quantity is counted."""
    if quantity == "flops":
        return lambda spec: training_flops(spec, sequence_length)
    return parameters if quantity == "parameters" else active_parameters


def present(options: Sequence[str], model: Mapping[str, Any]) -> tuple[str, ...]:
    """The options whose layer the model has. Raises ConfigError where it has none, or the layer lacks the option."""
    found = []
    for option in options:
        parent, _, name = option.rpartition(".")
        node: Any = model
        for key in parent.split(".") if parent else []:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            if name not in node:
                raise ConfigError(f"match.options: model.{parent} has no option {name!r} to solve for")
            found.append(option)
    if not found:
        raise ConfigError(
            f"match.options: the model has none of {', '.join(options)}; its layers are "
            f"{', '.join(model.get('layers') or ())}"
        )
    return tuple(found)


def with_width(model: Mapping[str, Any], options: Sequence[str], width: int) -> dict[str, Any]:
    """A copy of the plain `model` group with these options set."""
    changed: dict[str, Any] = deepcopy(dict(model))
    for option in options:
        *above, name = option.split(".")
        node = changed
        for key in above:
            node = node[key]
        node[name] = width
    return changed


def nearest(cost: Callable[[int], float], target: float, most: int) -> int:
    """The number from 1 to `most` whose cost, which never falls with it, is nearest to the target."""
    above = 1
    while above < most and cost(above) < target:
        above = min(2 * above, most)
    below = max(above // 2, 1)
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if cost(middle) < target else (below, middle)
    return min((below, above), key=lambda turns: abs(cost(turns) - target))
