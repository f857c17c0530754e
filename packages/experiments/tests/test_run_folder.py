"""A folder of runs stands for the newest in it."""

import pytest

from eyas.core.errors import DataError
from eyas.experiments.run_folder import CONFIG, find


def run(folder):
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("{}")
    return folder


def test_a_run_is_itself(tmp_path):
    folder = run(tmp_path / "2026-01-01_10-00-00")
    assert find(folder) == folder


def test_the_newest_of_a_name_is_found_single_or_the_last_of_a_multirun(tmp_path):
    run(tmp_path / "2026-01-01_10-00-00")
    newest = run(tmp_path / "2026-01-03_10-00-00")
    run(tmp_path / "2026-01-02_10-00-00" / "0")
    assert find(tmp_path) == newest
    for number in (2, 10):
        last = run(tmp_path / "2026-01-04_10-00-00" / str(number))
    assert find(tmp_path) == last


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_runs_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="no folder|no run folder, and has none in it"):
        find(tmp_path / name)
