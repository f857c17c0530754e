"""Whether runs keep to the rules that their experiments state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from eyas.core.errors import ConfigError
from eyas.experiments.experiment import Relation, Rule, Selection, read_rule
from eyas.experiments.results import Results, Row, option
from eyas.experiments.run_records import RunRecord

RELATIONS: dict[Relation, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt
}  # fmt: skip
MetricAt = Callable[[RunRecord, str, int], float | None]
"""A run's metric as it was logged at a step, counted from one; None where it was not."""


@dataclass(frozen=True)
class Stated:
    """What one or several runs say of the experiment that they belong to."""

    question: str
    budget: str
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a rule."""

    rule: str
    state: Literal["passed", "failed", "undecided"]
    reason: str


def stated_by(run: RunRecord) -> Stated:
    """The run's question, budget and rules; empty where it states none."""
    question, budget, passes = (run.config.get(f"experiment.{name}") for name in ("question", "budget", "passes"))
    rules = passes if isinstance(passes, list) else []
    return Stated(str(question or ""), str(budget or ""), tuple(str(rule) for rule in rules))


def judge(results: Results, metric_at: MetricAt) -> list[Verdict]:
    """A verdict on every rule that any run states, over the rows whose runs state it."""
    rules = dict.fromkeys(rule for run in results.runs for rule in stated_by(run).passes)
    return [judge_rule(rule, results, metric_at) for rule in rules]


def judge_rule(text: str, results: Results, metric_at: MetricAt) -> Verdict:
    """Failed as soon as one row breaks the rule; passed if all hold to it and none is without results."""
    try:
        rule = read_rule(text)
    except ConfigError as error:
        return Verdict(text, "undecided", str(error))
    stating = [row for row in results.rows if text in stated_by(row.runs[0]).passes]
    rows = [row for row in stating if matches(row, rule.where)]
    rivals = [] if rule.against is None else [row for row in stating if matches(row, rule.against)]
    if not rows or (rule.against is not None and not rivals):
        return Verdict(text, "undecided", "no run is selected")
    relation = RELATIONS[rule.relation]
    sides = list(_sides(rule, rows, rivals, metric_at))
    known = [(left, right, row) for left, right, row in sides if left is not None and right is not None]
    unknown = len(sides) - len(known)
    if not known:
        return Verdict(text, "undecided", _absent(rule))
    margin = 1 if rule.relation in ("<", "<=") else -1
    left, right, row = max(known, key=lambda side: _last(margin * (side[0] - side[1])))
    tightest = f"{rule.metric} {left:.4g} against {right:.4g} in {_names(results, row)}"
    reason = tightest if len(known) == 1 else f"closest of {len(known)}: {tightest}"
    if not all(relation(left, right) for left, right, _ in known):
        return Verdict(text, "failed", reason)
    if unknown:
        return Verdict(text, "undecided", f"{reason}; {unknown} of {len(sides)} without results")
    return Verdict(text, "passed", reason)


def matches(row: Row, selection: Selection) -> bool:
    """Whether the row's options have the selected values; spaces and quotes do not matter."""
    return all(_plain(option(row.runs[0], name)) == _plain(value) for name, value in selection)


def _sides(
    rule: Rule, rows: Sequence[Row], rivals: Sequence[Row], metric_at: MetricAt
) -> Iterator[tuple[float | None, float | None, Row]]:
    """What the rule compares, row by row, or row by row with each of its rivals."""
    for row in rows:
        left = _mean(row, rule.metric, rule.step, metric_at)
        for rival in [row] if rule.against is None else [rival for rival in rivals if rival is not row]:
            right: float | None = 0.0
            if rule.bound_metric is not None:
                right = _mean(rival, rule.bound_metric, rule.step, metric_at)
            yield left, None if right is None else rule.factor * right + rule.plus, row


def _mean(row: Row, metric: str, step: int | None, metric_at: MetricAt) -> float | None:
    """Over seeds; None where any of them lacks it, or the run has not finished."""
    if row.remark:
        return None
    values = row.values(metric) if step is None else [metric_at(run, metric, step) for run in row.runs]
    whole = [value for value in values if value is not None]
    return mean(whole) if len(whole) == len(row.runs) else None


def _absent(rule: Rule) -> str:
    metrics = " and ".join(dict.fromkeys(name for name in (rule.metric, rule.bound_metric) if name))
    return f"no finished run has {metrics}" + (f" at step {rule.step}" if rule.step is not None else "")


def _names(results: Results, row: Row) -> str:
    named = [f"{name}={value}" for name, value in zip(results.options, row.options, strict=True) if value]
    return " ".join(named) or results.label(row.runs[0])


def _plain(value: str) -> str:
    return "".join(letter for letter in value if letter not in " '\"")


def _last(margin: float) -> float:
    """A margin that is no number counts as the worst."""
    return float("inf") if margin != margin else margin
