"""Results as an experiment wants them in a table: the values of one option, its tasks say, beside one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from eyas.experiments.metric_names import of_the_run
from eyas.experiments.results import Results, Row
from eyas.experiments.run_records import RunRecord
from eyas.experiments.stated import stated_by


def side_by_side(results: Results) -> Results:
    """Joins the rows that differ in the option that all runs state as `experiment.columns`. What was learnt is named
    after the option's value, `mqar/accuracy`; all else, what it cost say, is averaged over the values. Runs without
    results keep rows of their own. Without such an option the results are returned as they are.
    """
    stated = {stated_by(run).columns for run in results.runs if run.config}
    name = stated.pop() if len(stated) == 1 else ""
    if name not in results.options:
        return results
    place = results.options.index(name)
    values = list(dict.fromkeys(row.options[place] for row in results.rows))
    labels = dict(zip(values, short_names(values), strict=True))
    rows: dict[tuple[tuple[str, ...], str], list[RunRecord]] = {}
    for row in results.rows:
        label = labels[row.options[place]]
        remark = f"{label}: {row.remark}" if row.remark else ""
        others = row.options[:place] + row.options[place + 1 :]
        rows.setdefault((others, remark), []).extend(renamed(run, label) for run in row.runs)
    columns = [column for metric in results.metrics for column in columns_of(metric, labels.values())]
    asked = [
        column
        for metric in results.asked
        for column in ([metric] if metric in columns else columns_of(metric, labels.values()))
    ]
    there = {metric for runs in rows.values() for run in runs for metric in run.metrics}
    return replace(
        results,
        options=results.options[:place] + results.options[place + 1 :],
        metrics=tuple(column for column in columns if column in there),
        asked=tuple(asked),
        rows=tuple(Row(others, tuple(runs), remark) for (others, remark), runs in rows.items()),
    )


def columns_of(metric: str, labels: Iterable[str]) -> list[str]:
    """The metric's name beside each value of the option; as it is where it does not depend on what was asked."""
    return [metric] if of_the_run(metric) else [f"{label}/{metric}" for label in labels]


def renamed(run: RunRecord, label: str) -> RunRecord:
    """The run with its metrics under the names of their columns."""
    return replace(run, metrics={columns_of(name, [label])[0]: value for name, value in run.metrics.items()})


def short_names(values: Sequence[str]) -> list[str]:
    """The last parts of the values' paths, where those tell them apart."""
    last = [value.rpartition("/")[2] for value in values]
    return last if len(set(last)) == len(values) else list(values)
