"""Runs of one process whose rank is a worker of the pool: no Python is started and no torch imported for each."""

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eyas.experiments import run_folder
from eyas.experiments.run_config import load_run
from eyas.parallel.pool import pool


def trained_here(folder: Path) -> None:
    """A rank of a run, in a worker of the pool."""
    from eyas.experiments.worker import train as train_rank

    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "GROUP_RANK": "0"}
    with patch.dict(os.environ, rank), redirect_stdout(StringIO()):
        train_rank(folder, load_run(run_folder.read_config(folder / run_folder.CONFIG)), resume=False)


def launch(folder: Path, *_: Any, on_terminal: bool) -> Any:
    """Stands for `workers.launch`."""
    return pool(1).run(trained_here, folder.absolute())
