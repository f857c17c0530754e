"""Rules are passed and failed by the runs that they are about."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from eyas.experiments.results import Results, Row
from eyas.experiments.run_records import RunRecord
from eyas.experiments.verdicts import judge, judge_rule

AT_STEP = {3: 0.5, 5: 0.9}


def row(model, *values, rules=(), remark="", metric="accuracy"):
    """A row of finished runs of a model, one for each value."""
    config = {"model.name": model, "model.pattern": ["ssm", model], "model.tied": None, "model.scale": True}
    config["experiment.passes"] = list(rules)
    runs = [RunRecord(Path(model), config, metrics={metric: v, "base": 2.0}, state="finished") for v in values]
    return Row((model,), tuple(runs or [RunRecord(Path(model), config, state="failed")]), remark)


def verdict(rule, *rows):
    rows = [row(r.options[0], *r.values("accuracy"), rules=[rule], remark=r.remark) for r in rows]
    results = Results(Path(), ("model.name",), ("accuracy",), tuple(rows))
    return judge_rule(rule, results, lambda run, metric: AT_STEP)


GOOD, BAD = row("good", 0.9, 1.0), row("bad", 0.1, 0.2)


@pytest.mark.parametrize(
    ("rule", "state", "reason"),
    [
        ("accuracy >= 0.95", "failed", "closest of 2: accuracy 0.15 against 0.95 in model.name=bad"),
        ("accuracy >= 0.95 where model.name=good", "passed", "accuracy 0.95 against 0.95 in model.name=good"),
        ("accuracy > 0.95 where model.name=good", "failed", "accuracy 0.95 against 0.95"),
        ("accuracy <= 0.2 where model.pattern=[ssm,bad]", "passed", "accuracy 0.15 against 0.2"),
        ("accuracy < 0.5 * base", "passed", "closest of 2: accuracy 0.95 against 1 in model.name=good"),
        ("accuracy >= accuracy + 0.5 where model.name=good against model.name=bad", "passed", "0.95 against 0.65"),
        ("accuracy >= 0.9 * accuracy against all", "failed", "closest of 2: accuracy 0.15 against 0.855"),
        ("accuracy >= 0.9 at step 5", "passed", "0.9 against 0.9"),
        ("accuracy >= 0.9 at step 3", "failed", "0.5 against 0.9"),
        ("accuracy >= 0.9 at step 4", "undecided", "no finished run has accuracy at step 4"),
        (
            "accuracy >= 0.5 at every step",
            "passed",
            "closest of 4: accuracy 0.5 against 0.5 in model.name=good at step 3",
        ),
        ("accuracy >= 0.6 at every step", "failed", "0.5 against 0.6 in model.name=good at step 3"),
        ("accuracy >= 0.1 where model.name=good|bad", "passed", "closest of 2: accuracy 0.15 against 0.1"),
        (
            "accuracy >= 0.1 where model.name=good|lost",
            "undecided",
            "against 0.1 in model.name=good; no run has model.name=lost",
        ),
        ("accuracy >= 0.99 where model.name=good|lost", "failed", "accuracy 0.95 against 0.99"),
        ("accuracy >= 0.9 where model.name=other", "undecided", "no run is selected"),
        ("accuracy >= accuracy where model.name=good against model.name=other", "undecided", "no other run to compare"),
        ("accuracy >= accuracy where model.name=good against model.name=good", "undecided", "no other run to compare"),
        ("accuracy >= 0.1 where model.tied=null and model.scale=true", "passed", "closest of 2"),
        ("accuracy >= 0.1 where model.tied=None and model.scale=True", "passed", "closest of 2"),
        (
            "accuracy >= 0.1 where model.name=good|bad and model.pattern=[ssm,good]",
            "undecided",
            "in model.name=good; no run has model.name=bad",
        ),
        ("recall >= 0.9", "undecided", "no finished run has it: unknown metric 'recall'; there are: accuracy, base"),
        ("acuracy >= 0.9", "undecided", "no finished run has it: unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("accuracy is fine", "undecided", "cannot be read"),
    ],
)
def test_a_rule_is_judged_over_the_means_of_its_rows(rule, state, reason):
    found = verdict(rule, GOOD, BAD)
    assert (found.state, reason in found.reason) == (state, True), found


def test_an_option_that_a_run_does_not_have_is_not_named():
    rule = "accuracy >= 0.95"
    rows = [row("good", 0.9, rules=[rule])]
    rows = [Row(("", "good"), rows[0].runs)]
    found = judge_rule(rule, Results(Path(), ("layout", "model.name"), ("accuracy",), tuple(rows)), lambda *_: {})
    assert found.reason == "accuracy 0.9 against 0.95 in model.name=good"


def test_a_run_without_results_leaves_a_rule_undecided_unless_another_breaks_it():
    failed = row("failed", remark="FAILED: out of luck")
    assert verdict("accuracy >= 0.1", GOOD, failed).state == "undecided"
    assert "1 of 2 without results" in verdict("accuracy >= 0.1", GOOD, failed).reason
    assert verdict("accuracy >= 0.5", GOOD, BAD, failed).state == "failed"


def test_what_is_no_number_fails():
    found = verdict("accuracy <= 2", GOOD, row("broken", math.nan))
    assert (found.state, "nan" in found.reason) == ("failed", True)


def test_a_rule_concerns_only_the_runs_that_state_it():
    one, two = "accuracy >= 0.5", "accuracy <= 0.5"
    rows = (row("good", 0.9, rules=[one]), row("bad", 0.1, rules=[two]))
    results = Results(Path(), ("model.name",), ("accuracy",), rows)
    assert [(v.rule, v.state) for v in judge(results, lambda *_: {})] == [(one, "passed"), (two, "passed")]


def test_a_rule_that_came_with_a_later_seed_concerns_the_row():
    rule = "accuracy >= 0.5"
    runs = (*row("good", 0.9).runs, *row("good", 0.7, rules=[rule]).runs)
    results = Results(Path(), ("model.name",), ("accuracy",), (Row(("good",), runs),))
    assert [(v.rule, v.state) for v in judge(results, lambda *_: {})] == [(rule, "passed")]


@pytest.mark.parametrize("when", ["", " at step 5"])
def test_a_seed_that_was_run_twice_counts_once(when):
    rule = f"accuracy >= 0.5{when}"
    found = [row("good", value, rules=[rule]).runs[0] for value in (0.1, 0.1, 0.9)]
    runs = tuple(
        replace(run, path=Path(str(number)), config=run.config | {"seed": seed})
        for number, (run, seed) in enumerate(zip(found, (1, 1, 2), strict=True))
    )
    results = Results(Path(), ("model.name",), ("accuracy",), (Row(("good",), runs),))
    verdict = judge_rule(rule, results, lambda path, _: {5: runs[int(path.name)].metrics["accuracy"]})
    assert verdict.state == "passed", verdict


def test_every_step_is_every_one_that_all_runs_have_logged():
    rule = "loss < loss at every step where model.name=good against model.name=bad"
    rows = tuple(row(model, 0.9, 0.9, rules=[rule]) for model in ("good", "bad"))
    results = Results(Path(), ("model.name",), ("accuracy",), rows)

    def judged(good, bad):
        return judge_rule(rule, results, lambda path, metric: {"good": good, "bad": bad}[path.name])

    lower = judged({1: 1.0, 2: 0.5, 9: 7.0}, {1: 1.5, 2: 0.6})
    assert (lower.state, lower.reason) == (
        "passed", "closest of 2: loss 0.5 against 0.6 in model.name=good at step 2"
    )  # fmt: skip
    assert judged({1: 1.0, 2: 0.7}, {1: 1.5, 2: 0.6}).state == "failed"
    rows = (row("good", 0.9, rules=[rule]), row("bad", rules=[rule], remark="running"))
    results = Results(Path(), ("model.name",), ("accuracy",), rows)
    assert judged({1: 1.0, 2: 0.5}, {1: 1.5}).reason == "no finished run has loss at any step"
    rows = tuple(row(model, 0.9, rules=[rule]) for model in ("good", "bad"))
    results = Results(Path(), ("model.name",), ("accuracy",), rows)
    nothing = judged({1: 1.0}, {2: 0.6})
    assert (nothing.state, nothing.reason) == ("undecided", "no finished run has loss at any step")
