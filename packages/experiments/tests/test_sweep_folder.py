"""Jobs of a sweep are known by their configuration, and no folder is given to another one's."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.core.errors import ConfigError
from eyas.experiments.hold import hold, is_held
from eyas.experiments.origin import Origin
from eyas.experiments.run_folder import claim, clear, write_status
from eyas.experiments.sweep_folder import SweepFolder, identity, state_of


def job(seed: int, **options: Any) -> dict[str, Any]:
    return {"name": "s", "seed": seed, "optimizer": {"learning_rate": 1e-05, "betas": [0.9, 0.95]}, **options}


def made(folder: Path, config: dict[str, Any], state: str = "finished") -> Path:
    """A run folder, found as it is."""
    assert claim(folder, config) == folder
    write_status(folder, state)
    return folder


def test_a_configuration_on_disk_is_the_one_that_was_composed(tmp_path: Path) -> None:
    made(tmp_path / "s" / "when" / "0", job(1))
    assert SweepFolder(tmp_path / "s" / "now").find(job(1)) == tmp_path / "s" / "when" / "0"


def test_names_and_questions_do_not_tell_runs_apart_and_all_else_does() -> None:
    assert identity(job(1)) == identity(
        job(1) | {"name": "t", "experiment": {"question": "?"}, "objective": "x", "profile": {}}
    )
    assert len({identity(job(1)), identity(job(2)), identity(job(1, optimizer={"learning_rate": 1e-4}))}) == 3


def test_jobs_find_their_folders_and_new_ones_get_free_numbers(tmp_path: Path) -> None:
    when = tmp_path / "s" / "when"
    for number, seed in enumerate((1, 2)):
        made(when / str(number), job(seed))
    places = SweepFolder(tmp_path / "s" / "now").place(dict(enumerate(map(job, (0, 1, 2, 3)))))
    assert places == {0: when / "2", 1: when / "0", 2: when / "1", 3: when / "3"}
    assert not (tmp_path / "s" / "now").exists()


def test_a_sweep_that_shares_no_job_has_a_new_folder(tmp_path: Path) -> None:
    made(tmp_path / "s" / "now" / "0", job(1))
    assert SweepFolder(tmp_path / "s" / "now").place({0: job(2)}) == {0: tmp_path / "s" / "now-2" / "0"}


def test_a_damaged_folder_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "s" / "when" / "0", job(1))
    made(tmp_path / "s" / "when" / "1", job(2))
    (tmp_path / "s" / "when" / "1" / "config.yaml").write_text("{")
    places = SweepFolder(tmp_path / "s" / "now").place({0: job(1), 1: job(2)})
    assert places[1].name == "2"


def test_equal_jobs_share_a_folder(tmp_path: Path) -> None:
    places = SweepFolder(tmp_path / "s" / "now").place({0: job(1), 1: job(1)})
    assert places[0] == places[1]


def test_a_finished_run_is_preferred_to_a_later_one(tmp_path: Path) -> None:
    finished = made(tmp_path / "s" / "a" / "0", job(1))
    made(tmp_path / "s" / "b" / "0", job(1), "failed")
    assert SweepFolder(tmp_path / "s" / "c").find(job(1)) == finished


def test_a_run_that_went_on_otherwise_is_another_one(tmp_path: Path) -> None:
    folder = made(tmp_path / "s" / "a" / "0", job(1))
    (folder / "resume-1.yaml").write_text(yaml.safe_dump(job(1, trainer={"max_steps": 600})))
    assert SweepFolder(tmp_path / "s" / "b").find(job(1)) is None


def test_only_a_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    folder = made(tmp_path / "0", job(1), "running")
    (folder / "checkpoints" / "step-00000005.unfinished").mkdir(parents=True)
    assert state_of(folder) == "missing"
    (folder / "checkpoints" / "step-00000005").mkdir()
    assert state_of(folder) == "started"


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with hold(tmp_path, "trained"):
        assert is_held(tmp_path)
        held = pytest.raises(ConfigError, match=r"is being trained by process \d+ on .*; wait for it or end it")
        with held, hold(tmp_path, "trained"):
            pass
    assert not is_held(tmp_path)
    with hold(tmp_path, "trained"):
        pass


def test_a_cleared_folder_can_be_claimed_again(tmp_path: Path) -> None:
    folder = made(tmp_path / "0", job(1), "failed")
    (folder / "ranks").mkdir()
    with hold(folder, "trained"):
        clear(folder)
        assert [path.name for path in folder.iterdir()] == ["writer.lock"]
        assert claim(folder, job(1), Origin(command=["eyas", "train"])) == folder
    assert json.loads((folder / "environment.json").read_text())["command"] == ["eyas", "train"]
