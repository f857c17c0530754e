"""The values of one option as columns of the table."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml

from eyas.experiments.noise import best_rows
from eyas.experiments.report.command import write_report
from eyas.experiments.results import collect
from eyas.experiments.results_command import print_results
from eyas.experiments.results_table import markdown
from eyas.experiments.side_by_side import side_by_side

SHOWS = ["accuracy", "corpus/excess_loss", "tokens_per_second"]


def write_run(folder: Path, task: str, model: str, seed: int, columns: str | None = "task", state="finished") -> None:
    """A run whose accuracy its task, model and seed decide."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed, "task": {"kind": task, "length": len(task)}, "model": {"name": model},
        "experiment": {"columns": columns, "shows": SHOWS},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"task={task}", f"model={model}", f"seed={seed}"]))
    (folder / "status.json").write_text(json.dumps({"state": state, "error": "out of luck"}))
    if state != "finished":
        return
    good = (model == "hybrid") * 0.5 + seed / 100 + len(task) / 1000
    learnt = {"excess_loss": 1 - good} if task == "corpus" else {"accuracy": good, "accuracy@256": good / 2}
    metrics = {**learnt, "train_loss": 2.0, "tokens_per_second": 100.0 * seed, "parameters": 1000, "steps": 5}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two models, three tasks, two seeds."""
    number = 0
    for task in ("t/mqar", "t/copying", "corpus"):
        for model in ("hybrid", "mamba2"):
            for seed in (1, 2):
                write_run(tmp_path / str(number), task, model, seed)
                number += 1
    return tmp_path


def test_tasks_are_columns_and_what_it_cost_is_averaged_over_them(table):
    joined = side_by_side(collect(table))
    assert joined.options == ("model",)
    assert [row.options for row in joined.rows] == [("hybrid",), ("mamba2",)]
    assert joined.leading(2) == ("mqar/accuracy", "copying/accuracy", "corpus/excess_loss", "tokens_per_second")
    hybrid = joined.rows[0]
    assert hybrid.values("mqar/accuracy") == [0.516, 0.526]
    assert hybrid.values("copying/accuracy@256") == [0.519 / 2, 0.529 / 2]
    assert hybrid.values("tokens_per_second") == [100.0, 200.0]
    assert {"mqar/train_loss", "parameters"} <= set(joined.metrics)
    assert not {"corpus/accuracy", "mqar/parameters", "accuracy"} & set(joined.metrics)
    assert "| 6 runs | hybrid |" in markdown(joined).replace("**", "")


def test_what_tasks_cost_is_no_noise_of_a_seed(table):
    for number in range(12):
        if number % 2:
            shutil.rmtree(table / str(number))  # the second seed
            continue
        told = json.loads((table / str(number) / "metrics.json").read_text())
        speed = 1000.0 * (1 + number // 4) + (number % 4 == 2)
        (table / str(number) / "metrics.json").write_text(json.dumps(told | {"tokens_per_second": speed}))
    joined = side_by_side(collect(table))
    assert [row.values("tokens_per_second") for row in joined.rows] == [[2000.0], [2001.0]]


def test_what_is_left_out_is_named_as_in_csv(table):
    (note,) = (line for line in markdown(side_by_side(collect(table))).splitlines() if line.startswith("More metrics"))
    assert note == "More metrics, in --csv: train_loss, parameters, steps, accuracy@256"


def test_a_metric_that_is_shown_is_not_left_out_for_one_that_ends_like_it(tmp_path):
    write_run(tmp_path / "0", "corpus", "hybrid", 1)
    metrics = {"accuracy": 0.5, "corpus/excess_loss": 0.1, "mqar/accuracy": 0.4}
    (tmp_path / "0" / "metrics.json").write_text(json.dumps(metrics))
    assert "More metrics, in --csv: mqar/accuracy\n" in markdown(side_by_side(collect(tmp_path)))


def test_csv_has_a_row_for_each_configuration(table, capsys):
    print_results(table, form="csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["task"], row["model"]) for row in rows[:2]] == [("t/mqar", "hybrid"), ("t/mqar", "mamba2")]
    assert (rows[0]["accuracy"], rows[0]["excess_loss"]) == ("0.521", "")


def test_the_best_of_each_task_is_marked(table):
    joined = side_by_side(collect(table))
    for metric in ("mqar/accuracy", "copying/accuracy", "corpus/excess_loss"):
        assert [row.options for row in best_rows(joined, metric)] == [("hybrid",)]


def test_seeds_keep_rows_of_their_own(table):
    joined = side_by_side(collect(table, by_seed=True))
    assert [row.options for row in joined.rows] == [("1", "hybrid"), ("2", "hybrid"), ("1", "mamba2"), ("2", "mamba2")]
    assert all(len(row.runs) == 3 for row in joined.rows)


def test_a_failed_run_says_what_it_was_to_do(table):
    for seed in (3, 4):
        write_run(table / str(10 + seed), "t/mqar", "hybrid", seed, state="failed")
    failed = [(row.options, len(row.runs), row.remark) for row in side_by_side(collect(table)).rows if row.remark]
    assert failed == [(("hybrid",), 1, "mqar: FAILED: out of luck")] * 2


def test_a_damaged_run_has_a_row_of_its_own(table):
    (table / "0" / "config.yaml").write_text("{")
    (table / "0" / "overrides.yaml").unlink()
    joined = side_by_side(collect(table))
    assert [row.remark for row in joined.rows] == ["", "", "config.yaml damaged"]
    assert "(none)/accuracy" in joined.metrics


def test_costs_of_different_tasks_are_not_compared(table):
    for seed in (2, 3):
        shutil.rmtree(table / str(seed))  # what mamba2 did of mqar
    for folder in table.iterdir():
        told = json.loads((folder / "metrics.json").read_text())
        fast = "mamba2" in (folder / "config.yaml").read_text()
        (folder / "metrics.json").write_text(json.dumps(told | {"tokens_per_second": 1000.0 if fast else 10.0}))
    joined = side_by_side(collect(table))
    assert best_rows(joined, "tokens_per_second") == []
    assert [row.options for row in best_rows(joined, "copying/accuracy")] == [("hybrid",)]


def test_values_whose_last_parts_are_alike_keep_their_names(tmp_path):
    for number, task in enumerate(("one/mqar", "two/mqar")):
        write_run(tmp_path / str(number), task, "hybrid", 1)
    assert {"one/mqar/accuracy", "two/mqar/accuracy"} <= set(side_by_side(collect(tmp_path)).metrics)


def test_without_a_common_wish_results_stay_as_they_are(table, tmp_path_factory):
    write_run(table / "12", "t/mqar", "hybrid", 3, columns=None)
    results = collect(table)
    assert side_by_side(results) == results
    alone = tmp_path_factory.mktemp("alone")
    for model, options in {"hybrid": (), "mamba2": ("model",)}.items():
        write_run(alone / model, "corpus", model, 1)
        found = side_by_side(collect(alone))
        assert (found.options, found.leading(1)) == (options, ("excess_loss", "tokens_per_second"))
        assert found.metrics[:2] == ("excess_loss", "tokens_per_second")


def test_a_line_of_the_page_is_about_all_that_is_drawn_of_it(table):
    page = write_report([table]).read_text()
    assert [f'data-rows="{rows}"' in page for rows in ("0 2 4", "1 3 5")] == [True, True]
    places = [
        page.index(f'<button type="button">{name}</button>') for name in ("corpus/excess_loss", "tokens_per_second")
    ]
    assert places == sorted(places)
    for name, hidden in (("mqar/accuracy", ""), ("mqar/accuracy@256", " hidden")):
        assert f'<th scope="col"{hidden} aria-sort="none"><button type="button">{name}</button>' in page
