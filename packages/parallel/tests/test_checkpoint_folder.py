"""A checkpoint is whole or none."""

import shutil
from pathlib import Path

import pytest

from eyas.parallel.checkpoint_folder import at_step, complete, delete, latest


def test_a_half_deleted_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 10):
        at_step(tmp_path, step).mkdir()
        (at_step(tmp_path, step) / "metadata.json").touch()
    assert sorted(complete(tmp_path)) == [5, 10]

    def killed(path: Path) -> None:
        (path / "metadata.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(at_step(tmp_path, 5))
    assert complete(tmp_path) == {10: at_step(tmp_path, 10)}
    delete(at_step(tmp_path, 10))
    assert latest(tmp_path) is None
