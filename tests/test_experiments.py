"""Every arm of every experiment composes, and its first two steps run; a sweep that it states runs without further
words."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml
from pooled import launch

from eyas.core.allocation import every_division
from eyas.core.ratios import pattern_from_ratios
from eyas.experiments import workers
from eyas.experiments.cli import main
from eyas.experiments.compose import compose
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.rules import Rule, Trend, read_rule
from eyas.experiments.sweep import Returned
from eyas.parallel.checkpoint_folder import at_step

EXPERIMENTS = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
MANY = 7
"""Arms from which on an experiment takes its time to compose."""
GROWN_FROM = {"upcycling": "upcycling_dense"}
"""Experiments that begin with the runs of another."""
SHORT = (
    "trainer.max_steps=2", "trainer.global_batch=2", "trainer.microbatch=2", "schedule.warmup_steps=1",
    "trainer.validation_interval=null", "trainer.checkpoint_interval=null", "data.validation_sequences=2",
)  # fmt: skip


def of_file(experiment):
    """What the experiment's own file states."""
    return yaml.safe_load((conf_folder() / "experiment" / f"{experiment}.yaml").read_text())


def swept(experiment):
    """The values of each axis of the sweep that the experiment's own file states."""
    params = of_file(experiment).get("hydra", {}).get("sweeper", {}).get("params", {})
    return {name: split(str(values)) for name, values in params.items()}


def split(values):
    """The values of an axis; commas inside brackets part none."""
    return re.findall(r"\[[^\]]*\]|[^,\s]+", values)


def arms(experiment):
    """How many runs of one seed that sweep has."""
    return math.prod(len(values) for name, values in swept(experiment).items() if name != "seed")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, where workers come out of the pool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "launch", launch)
    return tmp_path


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_two_steps_of_every_experiment_run(experiment, place):
    text = Path(__file__).parent / "*.py"
    here = ["data=files", f"data.files='{text}'", "data.cache=cache", "data.vocab_size=300", "sample=none"]
    small = here if experiment == "quickstart" else []
    if experiment in GROWN_FROM:
        dense = GROWN_FROM[experiment]
        assert main(["train", f"experiment={dense}", *SHORT]) == 0
    forms = swept("upcycling")["upcycle"] if experiment == "upcycling" else []
    for number, arm in enumerate([[f"upcycle={form}"] for form in forms] or [[]]):
        assert main(["train", f"experiment={experiment}", f"name=short{number}", *SHORT, *small, *arm]) == 0
        told = ended(place, f"short{number}")
        assert told["steps"] == 2
        assert (told["parameters"] > told["active_parameters"]) == (number > 0), "mixtures alone leave weights out"


def ended(place, name):
    """The metrics that the only run of a name ended with."""
    (metrics,) = place.glob(f"runs/{name}/*/metrics.json")
    return json.loads(metrics.read_text())


def test_the_last_two_steps_of_a_branch_run(place):
    assert main(["train", "experiment=schedules_stable", "seed=1", *SHORT, "trainer.checkpoint_interval=2"]) == 0
    branch = ["schedule=schedules/branch", "schedule.decay_steps=2", "trainer.max_steps=4"]
    assert main(["train", "experiment=schedules", "seed=1", "name=branch", *SHORT, *branch]) == 0
    (folder,) = place.glob("runs/branch/*")
    assert [*losses(folder)] == [2, 3]


TABLE = swept("hybrid_table")


@pytest.mark.parametrize(
    ("task", "model"),
    [(TABLE["task"][0], model) for model in TABLE["model"]] + [(task, TABLE["model"][3]) for task in TABLE["task"][1:]],
    ids=lambda chosen: chosen.rpartition("/")[2],
)
def test_two_steps_of_every_model_and_every_task_of_the_table_tell_what_it_shows(task, model, place):
    assert main(["train", "experiment=hybrid_table", "name=arm", f"task={task}", f"model={model}", *SHORT]) == 0
    told, stated, column = ended(place, "arm"), of_file("hybrid_table"), task.rpartition("/")[2] + "/"
    assert (told["steps"], told["parameters"]) == (2, pytest.approx(stated["match"]["to"], rel=0.02))
    shown = stated["experiment"]["shows"]
    own = [name.removeprefix(column) for name in shown if name.startswith(column)]
    costs = [name for name in shown if "/" not in name]
    assert own and costs and [name for name in own + costs if not math.isfinite(told.get(name, math.nan))] == []
    assert told["memory_gib"] > 0


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=pytest.mark.slow) if arms(name) >= MANY else name for name in EXPERIMENTS]
)
def test_every_arm_of_an_experiment_is_composed_checked_and_costed(experiment, place, capsys):
    follows = of_file(experiment)["experiment"].get("follows")
    if follows is not None:
        begin(follows, place)
    assert main(["train", "-m", f"experiment={experiment}", "seed=1", "--dry-run"]) == 0
    told = re.findall(r"^job \d+: .* parameters, .* per training token", capsys.readouterr().out, re.MULTILINE)
    assert len(told) == arms(experiment)


def begin(experiment, place):
    """Trains a step of an experiment's run, which then passes for the whole: the same checkpoint at every step of which
    the whole run would keep one."""
    one = ("trainer.max_steps=1", "schedule.warmup_steps=0", "trainer.checkpoint_interval=1")
    assert main(["train", f"experiment={experiment}", "seed=1", *one]) == 0
    (job,) = jobs_of(f"experiment={experiment}", "seed=1")
    (folder,) = place.glob(f"runs/{experiment}_1/*/checkpoints")
    trainer = job.config["trainer"]
    steps, keep = trainer["max_steps"], trainer["keep_checkpoints"]
    every = trainer["checkpoint_interval"] or steps
    for step in range(every, steps + 1, every)[-(keep or steps) :]:
        shutil.copytree(at_step(folder, 1), at_step(folder, step))
    shutil.rmtree(at_step(folder, 1))


def jobs_of(*arguments):
    """The jobs of a multirun."""
    found = []

    def launch(jobs, *_):
        found.extend(jobs)
        return [Returned(None) for _ in jobs]

    compose(["--multirun", *arguments], found.append, launch)
    return found


def test_the_page_lists_every_experiment():
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    assert [experiment for experiment in EXPERIMENTS if not re.search(rf"experiment={experiment}[` ]", page)] == []


def test_an_experiment_runs_the_sweep_that_it_states():
    jobs = jobs_of("experiment=mqar_gate")
    runs = [(job.config["model"]["name"], job.config["seed"], job.config["data"]["seed"]) for job in jobs]
    assert runs == [(model, seed, seed) for model in ("M*", "PP", "MM") for seed in (0, 1, 2)]
    assert len(jobs_of("experiment=mqar_gate", "seed=5", "model=mqar_gate/mamba2")) == 1


def test_the_ratios_are_those_of_the_study():
    patterns = [pattern.strip("'") for pattern in swept("attention_ratio")["model.pattern"]]
    assert patterns == [pattern_from_ratios(24, layers / 24, 0.5) for layers in (0, 1, 2, 3, 4, 8, 12)]


def test_all_divisions_of_channels_are_swept():
    shares = [yaml.safe_load(each) for each in swept("falcon_h1_allocation")["allocation.shares"]]
    assert shares == [list(division) for division in every_division()]


def test_branches_begin_from_the_stable_run_of_their_seed():
    jobs = jobs_of("experiment=schedules", "trainer.max_steps=300")
    begun = [(job.config["schedule"]["kind"], job.config["branch_from"]) for job in jobs]
    assert begun == [("cosine", None)] * 3 + [("wsd", f"runs/schedules_stable_{seed}") for seed in (1, 2, 3)]


def test_every_experiment_states_its_question_its_budget_and_a_rule():
    for experiment in EXPERIMENTS:
        stated = of_file(experiment)["experiment"]
        assert stated["question"].endswith("?") and stated["budget"] and stated["passes"], experiment


def test_every_rule_of_an_experiment_selects_a_job_of_its_sweep():
    for experiment in EXPERIMENTS:
        axes = swept(experiment)
        for text in of_file(experiment)["experiment"]["passes"]:
            rule = read_rule(text)
            against = (rule.against or ()) if isinstance(rule, Rule) else ()
            for name, value in (*rule.where, *against):
                values = [plain(each) for each in axes[name]]
                assert {plain(one) for one in value.split("|")} <= set(values), f"{experiment}: {text}"


def test_every_trend_of_an_experiment_goes_by_what_its_sweep_varies():
    found = 0
    for experiment in EXPERIMENTS:
        axes = swept(experiment)
        for rule in map(read_rule, of_file(experiment)["experiment"]["passes"]):
            for trend in () if isinstance(rule, Rule) else (rule.trend, rule.bound):
                options = trend.options if isinstance(trend, Trend) else ()
                assert {option.partition("[")[0] for option in options} <= set(axes), f"{experiment}: {rule}"
                found += len(options)
    assert found


def plain(value):
    """As verdicts compare values, and OmegaConf reads them."""
    return {"null": "None", "1e11": "100000000000.0"}.get(value, "".join(c for c in value if c not in " '\""))


BRANCH = (
    "task=induction", "task.sequence_length=16", "model=mqar_gate/sequential", "schedule.warmup_steps=1",
    "trainer.global_batch=2", "trainer.microbatch=2", "data.validation_sequences=2",
)  # fmt: skip


def losses(folder):
    with (folder / "metrics.csv").open() as stream:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(stream)}


def column(folder, name):
    """A metric by step, where it was logged."""
    with (folder / "metrics.csv").open() as stream:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(stream) if row[name]}


def test_a_run_that_was_killed_before_it_validated_does_so_when_it_is_resumed(place):
    options = ("name=cut", "trainer.max_steps=5", "trainer.validation_interval=2", "trainer.checkpoint_interval=2")
    assert main(["train", *BRANCH, *options]) == 0
    (folder,) = (place / "runs" / "cut").iterdir()
    names = ("train/loss", "validation/loss", "validation/accuracy")
    expected = [column(folder, name) for name in names]
    assert [*expected[1]] == [1, 3, 4]
    for step in (4, 5):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    (folder / "metrics.json").unlink()
    (folder / "status.json").write_text('{"state": "failed", "error": "killed"}')
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))[:2]
    with (folder / "metrics.csv").open("w") as stream:
        writer = csv.DictWriter(
            stream, [name for name in rows[0] if not name.startswith("validation/")], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)
    assert main(["resume", str(folder)]) == 0
    for name, values in zip(names, expected, strict=True):
        assert column(folder, name) == pytest.approx(values, rel=1e-6), name


def test_a_branch_goes_on_as_the_whole_run_does(place, capsys):
    stable = ("schedule=constant", "name=stable", "trainer.max_steps=4", "trainer.checkpoint_interval=1")
    whole = ("schedule=wsd", "schedule.decay_steps=2", "trainer.max_steps=5", "trainer.validation_interval=2")
    assert main(["train", *BRANCH, *stable]) == 0
    assert main(["train", *BRANCH, *whole, "name=whole"]) == 0
    assert main(["train", *BRANCH, *whole, "name=branch", "branch_from=runs/stable"]) == 0
    (expected,), (branch,) = ((place / "runs" / name).iterdir() for name in ("whole", "branch"))
    assert losses(branch) == {step: loss for step, loss in losses(expected).items() if step >= 3}
    for name in ("validation_loss", "accuracy", "steps", "tokens"):
        ended = (json.loads((folder / "metrics.json").read_text())[name] for folder in (branch, expected))
        assert len(set(ended)) == 1, name
    (begun,) = (place / "runs" / "stable").iterdir()
    for folder, before in ((branch, 3), (expected, 0)):
        ended, curve = json.loads((folder / "metrics.json").read_text()), column(folder, "validation/loss")
        assert curve[4] == pytest.approx(ended["validation_loss"], rel=1e-6)
        worked = column(folder, "step_seconds") | dict(list(column(begun, "step_seconds").items())[:before])
        assert len(worked) == 5 and ended["seconds"] > sum(worked.values())
    assert main(["train", *BRANCH, *whole, "--dry-run", "branch_from=runs/stable", "trainer.microbatch=1"]) == 0
    capsys.readouterr()
    for change, message in {
        "data.seed=7": "goes on with data.seed=1234 (here 7); set it alike",
        "branch_from=runs/stable@9": "has no checkpoint of step 9 to branch from; it has 1, 2, 3, 4",
        "branch_from=runs/stable@x": "names no step behind the @",
        "branch_from=runs/stable@4 trainer.max_steps=4": "trainer.max_steps=4 leaves nothing to do",
        "branch_from=runs/none": "there is no folder",
    }.items():
        code = main(["train", *BRANCH, *whole, "branch_from=runs/stable", *change.split()])
        error = capsys.readouterr().err
        assert (code, message in error) == (2, True), (change, error)
