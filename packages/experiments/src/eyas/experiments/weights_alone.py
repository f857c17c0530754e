"""Run folders of weights that no training of ours made: imported ones, averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from eyas.core.accounting import parameters
from eyas.core.schema import dump
from eyas.experiments import run_folder
from eyas.experiments.run_config import RunConfig
from eyas.parallel.checkpoint_folder import at_step


@contextmanager
def weights_alone(run: RunConfig, **metrics: float) -> Iterator[tuple[Path, Path]]:
    """A new folder for a run of no steps, and where its body must save the weights. The run is finished afterwards, or
    failed where the body raises."""
    wanted = Path(run.runs) / run.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder = run_folder.claim(wanted, dump(run))
    try:
        yield folder, at_step(folder / run_folder.CHECKPOINTS, 0)
    except BaseException as error:
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0] or type(error).__name__)
        raise
    run_folder.write_metrics(folder, {"steps": 0, **metrics, "parameters": parameters(run.spec)})
    run_folder.write_status(folder, "finished")
