"""The mean of checkpoints, as a run folder that everything reads which reads runs."""

import pytest
import torch

from eyas.core.schema import dump
from eyas.experiments import run_folder
from eyas.experiments.cli import main
from eyas.experiments.generate import load_model
from eyas.experiments.run_config import load_run
from eyas.experiments.run_records import read_run
from eyas.experiments.tokenizer import train_tokenizer
from eyas.layers.model import HybridLM
from eyas.parallel import checkpoint, quiet
from eyas.parallel.alone import alone

MODEL = {
    "hidden_size": 16,
    "vocab_size": 270,
    "layers": {
        "attn": {"kind": "attention", "num_heads": 2, "head_dim": 8},
        "ffn": {"kind": "mlp", "intermediate_size": 24},
    },
    "pattern": ["attn", "ffn"],
}


def a_run(name: str, *seeds: int, **model) -> str:
    """A run folder with a checkpoint of drawn weights for each seed, of steps 10, 20, ..."""
    quiet.install()
    begun = {"start_from": "runs/x", "branch_from": "runs/y@3"}
    run = load_run({"name": name, "model": {**MODEL, **model}, "data": {"vocab_size": 270}, **begun})
    folder = run_folder.claim(run_folder.Path("runs") / name / "first", dump(run))
    train_tokenizer(iter(["falcons hunt from the fist"] * 20), 270).save(str(folder / run_folder.TOKENIZER))
    for index, seed in enumerate(seeds, 1):
        with alone():
            shards = checkpoint.sharded_weights(HybridLM(run.spec).initialise(seed))
            checkpoint.save({"model": shards}, folder / run_folder.CHECKPOINTS / f"step-{10 * index:08d}")
    run_folder.write_status(folder, "finished")
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def averaged(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["average", *arguments]) == 0
    return capsys.readouterr().out.removeprefix("Run folder: ").strip()


def weights(*seeds: int) -> dict[str, torch.Tensor]:
    """The arithmetic mean of drawn models."""
    spec = load_run({"model": MODEL, "data": {"vocab_size": 270}}).spec
    states = [HybridLM(spec).initialise(seed).state_dict() for seed in seeds]
    return {name: (sum(state[name].double() for state in states) / len(states)).float() for name in states[0]}


def assert_holds(folder: str, expected: dict[str, torch.Tensor]) -> None:
    found = load_model(run_folder.Path(folder)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_average_is_the_arithmetic_mean(here, capsys):
    one, other = a_run("one", 1, 2, 3), a_run("other", 4)
    assert_holds(averaged(capsys, one, "--steps", "10,30"), weights(1, 3))
    assert_holds(averaged(capsys, one, "--last", "2", "--name", "tail"), weights(2, 3))
    assert_holds(averaged(capsys, one), weights(1, 2, 3))
    soup = averaged(capsys, one, other, "--name", "soup")
    assert_holds(soup, weights(3, 4))
    assert soup.startswith("runs/soup/") and read_run(run_folder.Path(soup)).metrics["averaged"] == 2


def test_it_is_generated_from_exported_and_started_from(here, capsys):
    folder = averaged(capsys, a_run("one", 1, 2))
    of_others = run_folder.open_run(run_folder.Path(folder))
    assert (of_others.start_from, of_others.branch_from) == (None, None)
    assert main(["generate", folder, "--tokens", "2"]) == 0
    assert main(["export-hf", folder, "exported"]) == 0
    for number in range(8):
        (here / f"{number}.txt").write_text("falcons hunt from the fist, eyases from the nest " * 40)
    assert main(["train", "--dry-run", f"start_from={folder}", "data.files=*.txt", "data.sequence_length=16"]) == 0
    assert main(["resume", folder]) == 2
    assert f"holds weights alone, not a run to go on with; eyas train start_from={folder}" in capsys.readouterr().err


def test_what_cannot_be_averaged(here, capsys):
    one, wider = a_run("one", 1, 2), a_run("wider", 3, hidden_size=32)
    for arguments, error in (
        ([one, wider], "(model) has another model than"),
        ([one, "--steps", "10,25"], "none of step 25; there are: 10, 20"),
        ([one, "--last", "3"], "2 of the last 3"),
        ([one, "--last", "1"], "the only checkpoint"),
        ([one, "--last", "0"], "at least 1"),
    ):
        assert main(["average", *arguments]) == 2
        assert error in capsys.readouterr().err
    assert not (here / "runs" / "one-average").exists()
