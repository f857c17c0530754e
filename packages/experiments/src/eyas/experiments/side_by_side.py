"""Results as an experiment wants them in a table: the values of one option, its tasks say, beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eyas.experiments.metric_names import of_the_run
from eyas.experiments.results import Results, Row
from eyas.experiments.run_records import RunRecord
from eyas.experiments.stated import Wishes

UNNAMED = "(none)"
"""The value of runs that do not say; no file of a group has brackets in its name."""


def side_by_side(results: Results) -> Results:
    """Joins the rows that differ in the option that all runs state as `experiment.columns`. What was learnt is named
    after the option's value, `mqar/accuracy`; what it cost is averaged over the values. Runs without results keep rows
    of their own. Where the option does not vary, rows and names stay as they are.
    """
    name, shows = results.wishes.columns, results.wishes.shows
    if name not in results.options:
        plain = tuple(metric if metric in results.metrics else metric.partition("/")[2] for metric in shows)
        metrics = tuple(metric for metric in dict.fromkeys((*plain, *results.metrics)) if metric in results.metrics)
        return replace(results, metrics=metrics, wishes=Wishes(name, plain))
    place = results.options.index(name)
    values = list(dict.fromkeys(row.options[place] for row in results.rows))
    labels = dict(zip(values, short_names(values), strict=True))
    rows = joined_rows(results, place, labels)
    there = {metric for row in rows for run in row.runs for metric in run.metrics}
    of = {metric: [column(metric, label) for label in labels.values()] for metric in results.metrics}
    columns = [name for names in of.values() for name in names]
    asked = [
        wanted
        for metric in shows
        for wanted in ([metric] if metric in columns else [column(metric, label) for label in labels.values()])
    ]
    return replace(
        results,
        options=results.options[:place] + results.options[place + 1 :],
        metrics=tuple(metric for metric in dict.fromkeys((*asked, *columns)) if metric in there),
        rows=tuple(rows),
        wishes=Wishes(name, tuple(asked)),
        columns_of={metric: tuple(name for name in names if name in there) for metric, names in of.items()},
    )


def joined_rows(results: Results, place: int, labels: Mapping[str, str]) -> list[Row]:
    """A row for all finished runs whose other options agree; the runs' metrics have the names of their columns."""
    finished: dict[tuple[str, ...], list[RunRecord]] = {}
    rows: list[Row] = []
    for row in results.rows:
        value, others = row.options[place], row.options[:place] + row.options[place + 1 :]
        runs = [renamed(run, labels[value]) for run in row.runs]
        if row.remark:
            rows.append(Row(others, tuple(runs), f"{labels[value]}: {row.remark}" if value else row.remark))
        else:
            finished.setdefault(others, []).extend(runs)
    return [Row(others, tuple(runs)) for others, runs in finished.items()] + rows


def column(metric: str, label: str) -> str:
    """The metric's name beside one value of the option; as it is where it does not depend on what was asked."""
    return metric if of_the_run(metric) else f"{label}/{metric}"


def renamed(run: RunRecord, label: str) -> RunRecord:
    """The run with its metrics under the names of their columns."""
    return replace(run, metrics={column(name, label): value for name, value in run.metrics.items()})


def short_names(values: Sequence[str]) -> list[str]:
    """The last parts of the values' paths, where those tell them apart."""
    last = [value.rstrip("/").rpartition("/")[2] or UNNAMED for value in values]
    return last if len(set(last)) == len(values) else [value or UNNAMED for value in values]
