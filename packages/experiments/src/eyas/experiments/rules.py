"""The rules that runs pass or fail, as experiments write them.

A rule is one line that every row of results it is about must hold to, with means over seeds:

    METRIC RELATION BOUND [at step N | at every step] [where SELECTION] [against SELECTION]

    accuracy >= 0.95 at step 500 where model=hybrid
    validation_loss <= 0.8 * unigram_loss
    accuracy >= accuracy + 0.5 where model=hybrid and optimizer.learning_rate=0.003 against model=mamba2
    validation_loss <= 1.03 * validation_loss against all
    train/loss < train/loss at every step where upcycle=scaled|centred against upcycle=plain

A bound is a number, or a metric with a factor and a number added. With `against`, the bound's metric is that of every
row there, not of the same row. A selection may name several values of an option. Or it is about all rows together:

    TREND RELATION BOUND [at step N] [where SELECTION]

    spearman(validation_loss, allocation.shares[1]) > 0.8 where allocation.order=SAM
    spread(validation_loss, allocation.order) < spread(validation_loss, allocation.shares[1])
    shift(validation_loss, optimizer.learning_rate, model.hidden_size) <= 1 where model.mup_base=64

with a number or another trend as its bound; `trends.py` has what they measure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from eyas.core.errors import ConfigError
from eyas.experiments.origin import is_seed

Relation = Literal["<=", ">=", "<", ">"]
Selection = tuple[tuple[str, str], ...]
"""Options and the values that they must have."""
TrendKind = Literal["spearman", "spread", "shift"]
OPTIONS_OF: dict[TrendKind, int] = {"spearman": 1, "spread": 1, "shift": 2}
"""How many options stand behind the metric."""

NAME = r"[A-Za-z_][\w./@-]*"
UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
NUMBER = rf"[+-]?{UNSIGNED}"
RULE = re.compile(
    rf"(?P<metric>{NAME})\s*(?P<relation>{'|'.join(get_args(Relation))})\s*(?P<bound>.+?)"
    r"(?:\s+at\s+(?:step\s+(?P<step>\d+)|(?P<every>every\s+step)))?"
    r"(?:\s+where\s+(?P<where>.+?))?(?:\s+against\s+(?P<against>.+?))?"
)
BOUND = re.compile(
    rf"(?P<number>{NUMBER})|(?:(?P<factor>{NUMBER})\s*\*\s*)?(?P<metric>{NAME})(?:\s*(?P<plus>[+-]\s*{UNSIGNED}))?"
)
OPTION = rf"{NAME}(?:\[\d+\])?"
TREND = rf"(?:{'|'.join(OPTIONS_OF)})\(\s*{NAME}(?:\s*,\s*{OPTION})*\s*\)"
TREND_RULE = re.compile(
    rf"(?P<trend>{TREND})\s*(?P<relation>{'|'.join(get_args(Relation))})\s*"
    rf"(?:(?P<number>{NUMBER})|(?P<bound>{TREND}))(?:\s+at\s+step\s+(?P<step>\d+))?(?:\s+where\s+(?P<where>.+))?"
)
CLAUSE = re.compile(r"\s(at\s+(step|every)|where|against)\s")
FORM = "METRIC >= NUMBER [at step N | at every step] [where OPTION=VALUE and ...] [against OPTION=VALUE and ...]"
TREND_FORM = (
    "spearman(METRIC, OPTION), spread(METRIC, OPTION) or shift(METRIC, OPTION, OPTION) >= NUMBER "
    "[at step N] [where OPTION=VALUE and ...]"
)


@dataclass(frozen=True)
class Rule:
    """factor * metric + plus is the bound; the metric is None where a number is."""

    metric: str
    relation: Relation
    factor: float
    bound_metric: str | None
    plus: float
    step: int | Literal["every"] | None = None
    """The step, counted from one, whose logged values count, or every logged one; None for what the run ended with."""
    where: Selection = ()
    against: Selection | None = None
    """The rows that the bound's metric is taken from; None for the row itself."""


@dataclass(frozen=True)
class Trend:
    """How a metric goes with an option, over all rows together."""

    kind: TrendKind
    metric: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join((self.metric, *self.options))})"


@dataclass(frozen=True)
class TrendRule:
    """A bound for what rows show together."""

    trend: Trend
    relation: Relation
    bound: Trend | float
    step: int | None = None
    """The step, counted from one, whose logged values count; None for what the runs ended with."""
    where: Selection = ()


def read_rule(text: str) -> Rule | TrendRule:
    """The rule that a line states. Raises ConfigError where it cannot be read."""
    return _trend_rule(text) if re.match(rf"\s*({'|'.join(OPTIONS_OF)})\s*\(", text) else _row_rule(text)


def _trend_rule(text: str) -> TrendRule:
    parts = TREND_RULE.fullmatch(text.strip())
    if not parts:
        raise ConfigError(f"{text!r} cannot be read; write {TREND_FORM}")
    return TrendRule(
        trend=_trend(text, parts["trend"]),
        relation=_relation(parts["relation"]),
        bound=float(parts["number"]) if parts["number"] else _trend(text, parts["bound"]),
        step=_step(text, parts["step"]),
        where=_selection(text, parts["where"], TREND_FORM) if parts["where"] else (),
    )


def _trend(rule: str, text: str) -> Trend:
    name, _, arguments = text.rstrip(" )").partition("(")
    metric, *options = (argument.strip() for argument in arguments.split(","))
    kind = next(known for known in OPTIONS_OF if known == name)
    if len(options) != OPTIONS_OF[kind]:
        many = "an option" if OPTIONS_OF[kind] == 1 else "two options"
        raise ConfigError(f"{rule!r}: {kind} takes a metric and {many}; write {TREND_FORM}")
    if seeds := [option for option in options if is_seed(option)]:
        raise ConfigError(f"{rule!r}: rules are about means over seeds; {kind} cannot go by {seeds[0]}")
    return Trend(kind, metric, tuple(options))


def _row_rule(text: str) -> Rule:
    parts = RULE.fullmatch(text.strip())
    bound = parts and BOUND.fullmatch(parts["bound"])
    if not parts or not bound:
        raise ConfigError(f"{text!r} cannot be read; write {FORM}")
    against = parts["against"]
    if against is not None and bound["metric"] is None:
        raise ConfigError(f"{text!r} compares with a number, so nothing stands against it; give a metric as its bound")
    return Rule(
        metric=parts["metric"],
        relation=_relation(parts["relation"]),
        factor=float(bound["factor"] or 1),
        bound_metric=bound["metric"],
        plus=float((bound["number"] or bound["plus"] or "0").replace(" ", "")),
        step="every" if parts["every"] else _step(text, parts["step"]),
        where=_selection(text, parts["where"]) if parts["where"] else (),
        against=None if against is None else () if against == "all" else _selection(text, against),
    )


def _relation(text: str) -> Relation:
    return next(known for known in get_args(Relation) if known == text)


def _step(rule: str, text: str | None) -> int | None:
    if text is not None and int(text) < 1:
        raise ConfigError(f"{rule!r}: steps are counted from 1")
    return None if text is None else int(text)


def _selection(rule: str, text: str, form: str = FORM) -> Selection:
    conditions = [condition.partition("=") for condition in re.split(r"\s+and\s+", text.strip())]
    for name, equals, value in conditions:
        if clause := CLAUSE.search(f" {name}{equals}{value} "):
            raise ConfigError(f"{rule!r}: {clause[1]!r} stands in the wrong place; write {form}")
        if is_seed(name.strip()):
            raise ConfigError(f"{rule!r}: rules are about means over seeds; leave out {name + equals + value}")
        if not (name.strip() and equals and all(one.strip() for one in value.split("|"))):
            raise ConfigError(f"{rule!r}: {name + equals + value!r} selects nothing; write OPTION=VALUE")
    return tuple((name.strip(), value.strip()) for name, _, value in conditions)
