"""RUN@STEP."""

from pathlib import Path

import pytest

from eyas.core.errors import ConfigError
from eyas.experiments.named_step import run_of, split_step, step_of, with_step


def test_what_stands_behind_the_sign_is_a_step_or_a_folder_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "me@lab" / "dense@home"
    folder.mkdir(parents=True)
    assert split_step(str(folder), "start_from") == (str(folder), None)
    assert split_step(f"{folder}@12", "start_from") == (str(folder), 12)
    with pytest.raises(ConfigError, match="branch_from=runs/x@last names no step behind the @; write a number"):
        split_step("runs/x@last", "branch_from")


def test_a_name_without_a_step_is_the_run_s_own() -> None:
    for run in (Path("/data/me@lab/dense"), Path("dense@home")):
        assert run_of(str(run)) == run_of(with_step(run, 12)) == run
        assert step_of(with_step(run, 12)) == 12
