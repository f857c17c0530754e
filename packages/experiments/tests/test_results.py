"""The table of runs."""

import csv
import io
import json
import shutil
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from eyas.core.errors import DataError
from eyas.experiments.hold import LOCK
from eyas.experiments.results import collect
from eyas.experiments.results_command import Form, print_results
from eyas.experiments.results_table import cell, comma_separated, latex, markdown, show

CONFIG = {
    "seed": 1,
    "data": {"seed": 1, "vocab_size": 512},
    "model": {"pattern": ["ssm+attn", "ffn"], "hidden_size": 64},
    "optimizer": {"lr": 0.001},
}


def write_run(
    folder: Path,
    overrides: tuple[str, ...] = (),
    metrics: dict[str, Any] | None = None,
    state: str = "finished",
    error: str = "",
    **options: object,
) -> None:
    """A run folder as a run leaves it; options are given by dotted name with __ for the dot."""
    folder.mkdir(parents=True)
    config = OmegaConf.create(CONFIG)
    for name, value in options.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    config.data.seed = config.seed
    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(list(overrides), folder / "overrides.yaml")
    (folder / "status.json").write_text(json.dumps({"state": state, "error": error or None}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two learning rates, three seeds each; the last run failed."""
    number = 0
    for lr in (0.001, 0.01):
        for seed in (1, 2, 3):
            failed = number == 5
            write_run(
                tmp_path / str(number),
                (f"optimizer.lr={lr}", f"seed={seed}"),
                None
                if failed
                else {"validation_loss": 3 + seed / 4, "parameters": 12_345_678, "note": "text", "absent": None},
                "failed" if failed else "finished",
                "loss is not finite\n  at step 3" if failed else "",
                optimizer__lr=lr,
                seed=seed,
            )
            number += 1
    return tmp_path


def test_seeds_share_a_row_with_mean_and_deviation(sweep: Path) -> None:
    results = collect(sweep)
    assert results.options == ("optimizer.lr",)
    assert results.metrics == ("validation_loss", "parameters")
    first = results.rows[0]
    assert first.options == ("0.001",)
    assert first.values("validation_loss") == [3.25, 3.5, 3.75]
    assert "| 3 runs | 0.001 | 3.5 ± 0.25 | 12.35M ± 0 |" in markdown(results)


def test_failed_runs_stand_apart_with_the_first_line_of_their_error(sweep: Path) -> None:
    *_, good, failed = collect(sweep).rows
    assert [run.path.name for run in good.runs] == ["3", "4"]
    assert (failed.options, failed.remark) == (("0.01",), "FAILED: loss is not finite")
    assert failed.values("validation_loss") == []


def test_what_is_made_of_the_seed_is_no_difference(tmp_path: Path) -> None:
    for number, seed in enumerate((1, 2)):
        for start in ("", f"/runs/dense_{seed}/now/{number}"):
            folder = tmp_path / f"{seed}{'-tuned' * bool(start)}"
            write_run(folder, (f"seed={seed}",), {"loss": seed}, seed=seed, start_from=start, name=f"tuned_{seed}")
            origin = {"choices": {}, "seeded": {"name": "tuned_${seed}"}}
            if start:
                origin["seeded"]["start_from"] = "dense_${seed}"
            (folder / "origin.yaml").write_text(json.dumps(origin))
    results = collect(tmp_path)
    assert results.options == ("start_from",)
    assert [(row.options, row.values("loss")) for row in results.rows] == [
        (("",), [1, 2]),
        (("dense_${seed}",), [1, 2]),
    ]
    shutil.copytree(tmp_path / "1-tuned", tmp_path / "3")
    config = OmegaConf.load(tmp_path / "3" / "config.yaml")
    config.start_from = "/runs/dense_1/later/0"
    OmegaConf.save(config, tmp_path / "3" / "config.yaml")
    assert [row.values("loss") for row in collect(tmp_path).rows] == [[1, 2], [1], [1], [2]]
    shutil.rmtree(tmp_path / "3")
    (tmp_path / "1-tuned" / "origin.yaml").unlink()
    assert len(collect(tmp_path).rows) == 3


def test_branches_of_several_lengths_are_averaged_over_their_seeds(tmp_path: Path) -> None:
    for seed in (1, 2):
        for steps, begins in ((300, 240), (450, 360)):
            folder, stable = tmp_path / f"{seed}-{steps}", f"/runs/stable_{seed}/now@{begins}"
            write_run(folder, (f"trainer.max_steps={steps}",), {"loss": seed}, seed=seed, branch_from=stable)
            OmegaConf.update(config := OmegaConf.load(folder / "config.yaml"), "trainer.max_steps", steps)
            OmegaConf.save(config, folder / "config.yaml")
            origin = {"choices": {}, "seeded": {"branch_from": "${runs}/stable_${seed}"}}
            (folder / "origin.yaml").write_text(json.dumps(origin))
    write_run(tmp_path / "failed", ("trainer.max_steps=600",), None, "failed", branch_from="runs/stable_1")
    (tmp_path / "failed" / "origin.yaml").write_text(json.dumps(origin))
    averaged = {row.options[0]: row.values("loss") for row in collect(tmp_path).rows}
    assert (averaged["300"], averaged["450"]) == ([1, 2], [1, 2])


def test_the_present_folder_s_runs_are_told_as_those_of_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (model, width) in enumerate([("a", 256), ("a", 256), ("a", 256), ("b", 512), ("b", 512), ("b", 512)]):
        write_run(tmp_path / str(number), (f"model={model}",), {"loss": number}, seed=number % 3, data__width=width)
    monkeypatch.chdir(tmp_path)
    assert [row.options for row in collect(tmp_path).rows] == [("a",), ("b",)]
    assert [row.options for row in collect(Path()).rows] == [("a",), ("b",)]


def test_a_file_that_the_experiment_chose_is_an_option_like_one_that_was_typed(tmp_path: Path) -> None:
    write_run(tmp_path / "0", (), {"loss": 1})
    (tmp_path / "0" / "origin.yaml").write_text(json.dumps({"choices": {"task": "mqar"}, "seeded": {}}))
    write_run(tmp_path / "1", ("task=copying",), {"loss": 2})
    results = collect(tmp_path)
    assert (results.options, [row.options for row in results.rows]) == (("task",), [("mqar",), ("copying",)])


def test_by_seed_shows_every_run(sweep: Path) -> None:
    results = collect(sweep, by_seed=True)
    assert results.options == ("seed", "optimizer.lr")
    assert [row.options for row in results.rows] == [(str(s), lr) for lr in ("0.001", "0.01") for s in (1, 2, 3)]
    assert [len(row.runs) for row in results.rows] == [1] * 6


def test_csv_holds_unrounded_numbers(sweep: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(collect(sweep)))))
    losses = [3.25, 3.5, 3.75]
    assert float(rows[0]["validation_loss"]) == mean(losses)
    assert float(rows[0]["validation_loss std"]) == stdev(losses)
    assert rows[0]["runs"] == "0 1 2"
    assert rows[-1]["note"] == "FAILED: loss is not finite"


def test_a_chosen_group_explains_every_option_below_it(tmp_path: Path) -> None:
    for number, (model, width) in enumerate([("tiny", 64), ("wide", 128)]):
        write_run(tmp_path / str(number), (f"model={model}",), {"validation_loss": 1.0}, model__hidden_size=width)
    results = collect(tmp_path)
    assert results.options == ("model",)
    assert [row.options for row in results.rows] == [("tiny",), ("wide",)]


def test_a_difference_that_no_override_explains_is_a_column(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ("seed=1",), {"validation_loss": 1.0}, seed=1, data__vocab_size=512)
    write_run(tmp_path / "1", ("seed=2",), {"validation_loss": 2.0}, seed=2, data__vocab_size=1024)
    results = collect(tmp_path)
    assert results.options == ("data.vocab_size",)
    assert len(results.rows) == 2


def test_the_folder_of_a_run_is_no_option(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, (), {"validation_loss": 1.0}, output=str(tmp_path / name / "checkpoints"))
    assert collect(tmp_path).options == ()


def test_runs_are_found_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "9", "named/deep"):
        write_run(tmp_path / name, (), {"validation_loss": 1.0})
    (tmp_path / "9" / ".hydra").mkdir()
    (tmp_path / "9" / ".hydra" / "config.yaml").write_text("{}")
    (row,) = collect(tmp_path).rows
    assert [run.path.relative_to(tmp_path).as_posix() for run in row.runs] == ["9", "10", "named/deep"]


def test_a_single_run_is_a_table_of_one_row(tmp_path: Path) -> None:
    write_run(tmp_path / "run", (), {"validation_loss": 2.0, "tokens_per_second": 34_567.0})
    assert markdown(collect(tmp_path / "run")) == (
        "| runs | validation_loss | tokens_per_second |\n| --- | --- | --- |\n| run | 2 | 34.57k |\n"
    )


def half_written_metrics(folder: Path) -> None:
    (folder / "metrics.json").write_text('{"validation_loss": 1.')


def no_metrics(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def no_status(folder: Path) -> None:
    (folder / "status.json").unlink()


def half_written_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("seed: 1\ndata: {seed: ")


def config_of_another_kind(folder: Path) -> None:
    (folder / "config.yaml").write_text("- 1\n")


def no_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def status_without_state(folder: Path) -> None:
    (folder / "status.json").write_text("{}")


def config_that_cannot_be_opened(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").mkdir()


def half_written_origin(folder: Path) -> None:
    (folder / "origin.yaml").write_text("choices:\n  model")


def still_running(folder: Path) -> None:
    no_metrics(folder)
    (folder / "status.json").write_text('{"state": "running"}')


def gone_without_a_word(folder: Path) -> None:
    still_running(folder)
    (folder / LOCK).write_text("process 1 on nowhere")


@pytest.mark.parametrize(
    ("harm", "remark"),
    [
        (gone_without_a_word, "stopped"),
        (half_written_metrics, "metrics.json damaged"),
        (no_metrics, "no metrics.json"),
        (no_status, "unknown; no status.json"),
        (half_written_config, "config.yaml damaged"),
        (config_of_another_kind, "config.yaml damaged"),
        (half_written_origin, "origin.yaml damaged"),
        (config_that_cannot_be_opened, "config.yaml damaged"),
        (no_config, "no config.yaml"),
        (status_without_state, "unknown"),
        (still_running, "running"),
    ],
)
def test_a_half_written_run_is_told_and_not_averaged(sweep: Path, harm: Any, remark: str) -> None:
    harm(sweep / "0")
    results = collect(sweep)
    assert results.options == ("optimizer.lr",)
    (row,) = [row for row in results.rows if row.remark and row.runs[0].path.name == "0"]
    assert row.remark == remark
    (whole,) = [row for row in results.rows if not row.remark and row.options == ("0.001",)]
    assert [run.path.name for run in whole.runs] == ["1", "2"]


def test_no_more_than_eight_metrics_are_shown_and_the_rest_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "0", (), {f"m{number}": float(number) for number in range(9)} | {"validation_loss": 2.0})
    results = collect(tmp_path)
    header, *_ = markdown(results).splitlines()
    assert header == "| runs | validation_loss | m0 | m1 | m2 | m3 | m4 | m5 | m6 |"
    assert "More metrics, in --csv: m7, m8" in markdown(results)
    assert "m8" in comma_separated(results)


def test_patterns_are_printed_as_they_are(tmp_path: Path) -> None:
    for number, pattern in enumerate([["ssm+attn", "ffn"], ["ssm", "|", "bold"]]):
        write_run(tmp_path / str(number), (), {"validation_loss": 1.0}, model__pattern=pattern)
    console = Console(file=io.StringIO(), width=200)
    show(collect(tmp_path), console)
    printed = console.file.getvalue()
    assert "[ssm+attn, ffn]" in printed and "[ssm, |, bold]" in printed
    assert r"[ssm, \|, bold]" in markdown(collect(tmp_path))


@pytest.mark.parametrize(
    ("form", "begins"), [("csv", "runs,seed,optimizer.lr,"), ("md", "| runs | seed |"), ("latex", "% Best is marked")]
)
def test_the_command_writes_the_form_that_it_is_asked_for(
    sweep: Path, capsys: pytest.CaptureFixture[str], form: Form, begins: str
) -> None:
    print_results(sweep, by_seed=True, form=form)
    assert capsys.readouterr().out.startswith(begins)


def test_the_command_prints_a_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(sweep)
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "message"), [("nowhere", "there is no folder"), (".", "there is no run in")])
def test_a_folder_without_runs_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect(tmp_path / name)


def test_a_resumed_run_shows_what_it_went_on_with(tmp_path: Path) -> None:
    for name, steps in (("a", 10), ("b", 20)):
        write_run(tmp_path / name, metrics={"validation_loss": 3.0}, trainer__max_steps=10)
        OmegaConf.save({**CONFIG, "trainer": {"max_steps": steps}}, tmp_path / name / "resume-1.yaml")
    results = collect(tmp_path)
    assert results.options == ("trainer.max_steps",)
    assert [row.options for row in results.rows] == [("10",), ("20",)]


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    """Two models with three seeds each, of which one is better beyond the noise; the names want escaping."""
    for number in range(6):
        model = ("a_b|*c*", r"50% & <d> \ {e}~^#$")[number // 3]
        metrics = {"accuracy": (0.9 if number < 3 else 0.1) + number % 3 / 100, "parameters": 7}
        write_run(tmp_path / str(number), (f"model={model}",), metrics, model__name=model, seed=number % 3)
    return tmp_path


def test_the_best_beyond_the_noise_is_marked_in_every_form(clear: Path) -> None:
    results = collect(clear)
    assert "| **0.91 ± 0.01** |" in markdown(results)
    assert r"& \textbf{0.91 $\pm$ 0.01} &" in latex(results)
    console = Console(file=io.StringIO(), width=200)
    show(results, console)
    printed = console.file.getvalue()
    assert "0.91 ± 0.01 *" in printed and "* Best is marked where it differs from every other row" in printed
    for text in (markdown(results), latex(results)):
        assert "0.11 ± 0.01" in text.replace(r"$\pm$", "±")
        assert text.count("7 ± 0" if "|" in text.splitlines()[0] else r"7 $\pm$ 0") == 2


def test_markdown_and_latex_escape_what_they_would_read_as_their_own(clear: Path) -> None:
    results = collect(clear)
    assert r"| a_b\|\*c\* |" in markdown(results)
    assert r"| 50% & \<d> \\ {e}~^#$ |" in markdown(results)
    cell = r"50\% \& \textless{}d\textgreater{} \textbackslash{} \{e\}\textasciitilde{}\textasciicircum{}\#\$"
    assert cell in latex(results)
    assert r"a\_b\textbar{}*c*" in latex(results)


def test_a_latex_table_has_as_many_cells_as_columns(sweep: Path) -> None:
    lines = latex(collect(sweep)).splitlines()
    begin = next(line for line in lines if line.startswith(r"\begin{tabular}"))
    assert begin == r"\begin{tabular}{llrrl}"
    assert {line.count(" & ") for line in lines if line.endswith(r"\\")} == {4}


def test_runs_of_several_folders_stand_in_one_table_once_each(sweep: Path) -> None:
    results = collect(sweep / "0", sweep / "4", sweep / "0")
    assert [results.label(run) for row in results.rows for run in row.runs] == ["0", "4"]
    assert comma_separated(collect(sweep, sweep / "3")) == comma_separated(collect(sweep))


def test_what_an_experiment_says_of_itself_is_no_option(tmp_path: Path) -> None:
    for number in range(2):
        write_run(tmp_path / str(number), (), {"accuracy": 1.0}, experiment__question=f"question {number}?")
    assert collect(tmp_path).options == ()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((1000.0, 2000.0), "1500 ± 710"),
        ((5_748_000.0, 5_760_000.0), "5.754M ± 0.0085M"),
        ((12_000.0, 12_000.0), "12k ± 0"),
        ((7.27, 7.28), "7.275 ± 0.0071"),
        ((1e-6, 3e-6), "2e-06 ± 1.4e-06"),
        ((9999.7,), "10k"),
        ((inf, 1.0), "inf ± nan"),
    ],
)
def test_a_deviation_is_told_as_its_mean_is(values, told):
    assert cell(values) == told
