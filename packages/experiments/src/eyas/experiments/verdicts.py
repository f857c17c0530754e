"""Whether runs keep to the rules that their experiments state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name
from eyas.experiments.results import Results, Row, beside_seed
from eyas.experiments.rules import Relation, Rule, Selection, Trend, TrendRule, read_rule
from eyas.experiments.stated import stated_by
from eyas.experiments.trends import Finding, Untold, measure

RELATIONS: dict[Relation, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt
}  # fmt: skip
YAML = {"null": "None", "true": "True", "false": "False"}
"""As config.yaml writes them, and as tables do."""
Logged = Callable[[Path, str], Mapping[int, float]]
"""The metric of the run in a folder at each step at which it was logged, counted from one."""


@dataclass(frozen=True)
class Verdict:
    """What became of a rule."""

    rule: str
    state: Literal["passed", "failed", "undecided"]
    reason: str


def judge(results: Results, logged: Logged) -> list[Verdict]:
    """A verdict on every rule that any run states, over the rows whose runs state it."""
    rules = dict.fromkeys(rule for run in results.runs for rule in stated_by(run).passes)
    return [judge_rule(rule, results, logged) for rule in rules]


def judge_rule(text: str, results: Results, logged: Logged) -> Verdict:
    """Failed as soon as one row breaks the rule; passed if all hold to it and none is without results."""
    try:
        rule = read_rule(text)
    except ConfigError as error:
        return Verdict(text, "undecided", str(error))
    stating = [row for row in results.rows if any(text in stated_by(run).passes for run in row.runs)]
    if isinstance(rule, TrendRule):
        return _judge_trend(text, rule, stating, logged)
    rows = [row for row in stating if matches(row, rule.where)]
    rivals = [] if rule.against is None else [row for row in stating if matches(row, rule.against)]
    if not rows:
        return Verdict(text, "undecided", "no run is selected")
    if rule.against is not None and not any(rival is not row for row in rows for rival in rivals):
        return Verdict(text, "undecided", "there is no other run to compare with")
    relation = RELATIONS[rule.relation]
    compared = [one for pair in _pairs(rule, rows, rivals) for one in _comparisons(rule, *pair, logged)]
    known = [(one.left, one.right, one) for one in compared if one.left is not None and one.right is not None]
    unknown = len(compared) - len(known)
    if not known:
        return Verdict(text, "undecided", _absent(rule, stating))
    margin = 1 if rule.relation in ("<", "<=") else -1
    left, right, closest = max(known, key=lambda one: _last(margin * (one[0] - one[1])))
    when = f" at step {closest.step}" if rule.step == "every" else ""
    tightest = f"{rule.metric} {left:.4g} against {right:.4g} in {_names(results, closest.row)}{when}"
    reason = tightest if len(known) == 1 else f"closest of {len(known)}: {tightest}"
    if not all(relation(left, right) for left, right, _ in known):
        return Verdict(text, "failed", reason)
    if unknown:
        return Verdict(text, "undecided", f"{reason}; {unknown} of {len(compared)} without results")
    if absent := [*absent_values(stating, rule.where), *absent_values(stating, rule.against or ())]:
        return Verdict(text, "undecided", f"{reason}; no run has {' or '.join(absent)}")
    return Verdict(text, "passed", reason)


def _judge_trend(text: str, rule: TrendRule, stating: Sequence[Row], logged: Logged) -> Verdict:
    """Failed or passed by what the selected rows show together; undecided where one is without results."""
    rows = [row for row in stating if matches(row, rule.where)]
    if not rows:
        return Verdict(text, "undecided", "no run is selected")

    def value_of(row: Row, metric: str) -> float | None:
        return _mean(row, metric, rule.step, logged)

    bound, when = rule.bound, f" at step {rule.step}" if rule.step else ""
    try:
        left = measure(rule.trend, rows, value_of, when)
        right = measure(bound, rows, value_of, when) if isinstance(bound, Trend) else Finding(bound, "")
    except Untold as untold:
        return Verdict(text, "undecided", str(untold))
    details = "; ".join(one.detail for one in (left, right) if one.detail)
    reason = f"{rule.trend.kind} {left.value:.4g} against {right.value:.4g}: {details}"
    holds = RELATIONS[rule.relation](left.value, right.value)
    upward = rule.relation in (">", ">=")
    if (right if upward == holds else left).lower_bound:
        return Verdict(text, "undecided", f"{reason}; the best may lie beyond what was tried")
    if absent := absent_values(stating, rule.where):
        return Verdict(text, "undecided", f"{reason}; no run has {' or '.join(absent)}")
    return Verdict(text, "passed" if holds else "failed", reason)


def matches(row: Row, selection: Selection) -> bool:
    """Whether the row's options have the selected values, or one of several with | in between; spaces and quotes do not
    matter."""
    return all(
        _has(row, name, value) or any(_has(row, name, one) for one in value.split("|")) for name, value in selection
    )


def absent_values(rows: Sequence[Row], selection: Selection) -> list[str]:
    """Of several values with | in between, those that no row has which meets the other conditions."""
    absent = []
    for place, (name, value) in enumerate(selection):
        others = [row for row in rows if matches(row, selection[:place] + selection[place + 1 :])]
        if not any(_has(row, name, value) for row in others):
            absent += [f"{name}={one}" for one in value.split("|") if not any(_has(row, name, one) for row in others)]
    return absent


def _has(row: Row, name: str, value: str) -> bool:
    return _plain(beside_seed(row.runs[0], name)) == _plain(value)


def _pairs(rule: Rule, rows: Sequence[Row], rivals: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Every row, with itself or with each of its rivals."""
    for row in rows:
        for rival in [row] if rule.against is None else [rival for rival in rivals if rival is not row]:
            yield row, rival


@dataclass(frozen=True)
class _Comparison:
    """What a rule compares once; None where it is not there."""

    row: Row
    left: float | None
    right: float | None
    step: int | None = None


def _comparisons(rule: Rule, row: Row, rival: Row, logged: Logged) -> Iterator[_Comparison]:
    """What the rule compares of a row and its rival: once, or at every step that both have logged."""
    if rule.step != "every":
        yield _Comparison(row, _mean(row, rule.metric, rule.step, logged), _bound(rule, rival, rule.step, logged))
        return
    if row.remark or rival.remark:
        yield _Comparison(row, None, None)
        return
    named = [(run, rule.metric) for run in row.runs]
    if rule.bound_metric is not None:
        named += [(run, rule.bound_metric) for run in rival.runs]
    steps = sorted(set.intersection(*(set(logged(run.path, metric)) for run, metric in named)))
    for step in steps:
        yield _Comparison(row, _mean(row, rule.metric, step, logged), _bound(rule, rival, step, logged), step)
    if not steps:
        yield _Comparison(row, None, None)


def _bound(rule: Rule, rival: Row, step: int | None, logged: Logged) -> float | None:
    if rule.bound_metric is None:
        return rule.plus
    value = _mean(rival, rule.bound_metric, step, logged)
    return None if value is None else rule.factor * value + rule.plus


def _mean(row: Row, metric: str, step: int | None, logged: Logged) -> float | None:
    """Over seeds; None where any of them lacks it, or the run has not finished."""
    if row.remark:
        return None
    values = [run.metrics.get(metric) if step is None else logged(run.path, metric).get(step) for run in row.runs]
    return None if None in values else mean(row.of_seeds(values))


def _absent(rule: Rule, stating: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for name in (rule.metric, rule.bound_metric) if name))
    if rule.step is not None:
        when = "any step" if rule.step == "every" else f"step {rule.step}"
        return f"no finished run has {' and '.join(names)} at {when}"
    known = {metric for row in stating if not row.remark for run in row.runs for metric in run.metrics}
    unknown = [name for name in names if name not in known]
    if known and unknown:
        return f"no finished run has it: {unknown_name('metric', unknown[0], known)}"
    return f"no finished run that is asked for has {' and '.join(names)}"


def _names(results: Results, row: Row) -> str:
    named = [f"{name}={value}" for name, value in zip(results.options, row.options, strict=True) if value]
    return " ".join(named) or results.label(row.runs[0])


def _plain(value: str) -> str:
    bare = "".join(letter for letter in value if letter not in " '\"")
    return YAML.get(bare, bare)


def _last(margin: float) -> float:
    """A margin that is no number counts as the worst."""
    return float("inf") if margin != margin else margin
