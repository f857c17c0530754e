"""What an experiment asks: its question, its budget, and the rules that its runs pass or fail.

A rule is one line that every row of results it is about must hold to, with means over seeds:

    METRIC RELATION BOUND [at step N | at every step] [where SELECTION] [against SELECTION]

    accuracy >= 0.95 at step 500 where model=hybrid
    validation_loss <= 0.8 * unigram_loss
    accuracy >= accuracy + 0.5 where model=hybrid and optimizer.learning_rate=0.003 against model=mamba2
    validation_loss <= 1.03 * validation_loss against all
    train/loss < train/loss at every step where upcycle=scaled|centred against upcycle=plain

A bound is a number, or a metric with a factor and a number added. With `against`, the bound's metric is that of every
row there, not of the same row. A selection may name several values of an option.
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
CLAUSE = re.compile(r"\s(at\s+(step|every)|where|against)\s")
FORM = "METRIC >= NUMBER [at step N | at every step] [where OPTION=VALUE and ...] [against OPTION=VALUE and ...]"


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The `experiment` options: what the runs are made for. They change nothing in a run; `eyas report` reads them."""

    question: str | None = None
    """What the runs are to answer."""
    budget: str | None = None
    """What they may cost, in words."""
    follows: str | None = None
    """The experiment whose runs these go on from, to be trained first."""
    passes: tuple[str, ...] = ()
    """Rules such as `accuracy >= 0.95 where model=hybrid`, that the report evaluates."""
    columns: str | None = None
    """An option, such as `task`, whose values are columns of tables instead of rows."""
    shows: tuple[str, ...] = ()
    """The metrics that tables show, in this order; the usual ones where none are named."""

    def __post_init__(self) -> None:
        for index, text in enumerate(self.passes):
            try:
                read_rule(text)
            except ConfigError as error:
                raise ConfigError(f"passes[{index}]: {error}") from error


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


def read_rule(text: str) -> Rule:
    """The rule that a line states. Raises ConfigError where it cannot be read."""
    parts = RULE.fullmatch(text.strip())
    bound = parts and BOUND.fullmatch(parts["bound"])
    if not parts or not bound:
        raise ConfigError(f"{text!r} cannot be read; write {FORM}")
    against = parts["against"]
    if against is not None and bound["metric"] is None:
        raise ConfigError(f"{text!r} compares with a number, so nothing stands against it; give a metric as its bound")
    if parts["step"] is not None and int(parts["step"]) < 1:
        raise ConfigError(f"{text!r}: steps are counted from 1")
    relation: Relation = next(known for known in get_args(Relation) if known == parts["relation"])
    return Rule(
        metric=parts["metric"],
        relation=relation,
        factor=float(bound["factor"] or 1),
        bound_metric=bound["metric"],
        plus=float((bound["number"] or bound["plus"] or "0").replace(" ", "")),
        step="every" if parts["every"] else None if parts["step"] is None else int(parts["step"]),
        where=_selection(text, parts["where"]) if parts["where"] else (),
        against=None if against is None else () if against == "all" else _selection(text, against),
    )


def _selection(rule: str, text: str) -> Selection:
    conditions = [condition.partition("=") for condition in re.split(r"\s+and\s+", text.strip())]
    for name, equals, value in conditions:
        if clause := CLAUSE.search(f" {name}{equals}{value} "):
            raise ConfigError(f"{rule!r}: {clause[1]!r} stands in the wrong place; write {FORM}")
        if is_seed(name.strip()):
            raise ConfigError(f"{rule!r}: rules are about means over seeds; leave out {name + equals + value}")
        if not (name.strip() and equals and all(one.strip() for one in value.split("|"))):
            raise ConfigError(f"{rule!r}: {name + equals + value!r} selects nothing; write OPTION=VALUE")
    return tuple((name.strip(), value.strip()) for name, _, value in conditions)
