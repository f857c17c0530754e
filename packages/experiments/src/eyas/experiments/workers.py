"""The worker processes of a run, from a free folder to an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from eyas.core.errors import ConfigError, EyasError
from eyas.experiments import run_folder
from eyas.experiments.branch_from import check_tokens
from eyas.experiments.memory_check import check_memory, memory_here
from eyas.experiments.origin import Origin
from eyas.experiments.prepare import prepare
from eyas.experiments.run_config import RunConfig
from eyas.experiments.start_from import keep_imported_files
from eyas.experiments.summary import print_summary
from eyas.experiments.trackers import asked_for, check_installed
from eyas.parallel import checkpoint_folder
from eyas.parallel.environment import joined
from eyas.parallel.launch import launch

WORKER = "eyas.experiments.worker"
JOINED = "--joined"
"""Tells a worker that rank 0 hands out the run's folder to the others."""
REFUSED = "--refused"
"""Tells rank 0's worker, and it the others, that there is nothing to do."""


def check_machine(run: RunConfig) -> None:
    """Raises LayoutError where the job at hand cannot carry the layout, ConfigError where it lacks an option's GPU
    or package, or memory."""
    import torch

    check_installed(asked_for(run.logger))
    cuda = torch.cuda.is_available()
    if cuda and run.trainer.precision == "float64":
        raise ConfigError(
            "trainer.precision=float64 is for CPUs: on a GPU Megatron-Core clips float32 gradients alone; use float32"
        )
    run.optimizer.check_device(cuda)
    for name, layer in run.spec.used_layers.items():
        try:
            layer.check_device(cuda)
        except ConfigError as error:
            raise ConfigError(f"model.layers.{name} ({layer.kind}): {error}") from error
    job = joined()
    if job is not None:
        run.layout.check_world(job.world_size)
    else:
        from eyas.parallel.layout import processes_here

        run.layout.check_machine(processes_here(torch.cuda.device_count()))
        if not cuda:
            check_memory(run, memory_here())


def claim_with_data(wanted: Path, run: RunConfig, config: Mapping[str, Any], origin: Origin) -> Path:
    """A folder with all that the run needs to begin, its tokens prepared; `wanted` itself where it is free."""
    check_machine(run)
    prepared = prepare(run.data) if run.drawn_task is None else None
    if prepared is not None and run.branch_from is not None:
        check_tokens(run.branch_from, prepared)
    folder = run_folder.claim(wanted, config, origin)
    keep_imported_files(run.start_from, folder)
    if prepared is not None:
        run_folder.write_data(folder, run, prepared)
    return folder


def how_to_go_on(folder: Path) -> str:
    """What to do with an interrupted run."""
    steps = checkpoint_folder.complete(folder / run_folder.CHECKPOINTS)
    if not steps:
        return f"{folder} has no checkpoint yet, which trainer.checkpoint_interval=STEPS would bring sooner"
    return f"eyas resume {folder} goes on behind step {max(steps)}"


def start(folder: Path, run: RunConfig, config: Path, *flags: str, on_terminal: bool = True) -> None:
    """Runs the workers to their end and prints what came of it: on the terminal, or to `ranks` and the summary's file
    in the run's folder."""
    if joined() is not None:
        flags = (*flags, JOINED)
    arguments = ["--run", str(folder), "--config", str(config), *flags]
    try:
        launch(folder, WORKER, arguments, run.layout.processes, on_terminal=on_terminal)
    except EyasError as error:
        run_folder.write_status(folder, "failed", str(error).partition("\n")[0])
        if not on_terminal:
            raise
        raise type(error)(f"{error} (run folder: {folder})") from error
    except KeyboardInterrupt:
        run_folder.write_status(folder, "failed", "interrupted")
        raise KeyboardInterrupt(how_to_go_on(folder)) from None
    if on_terminal:
        print_summary(folder, run)
        return
    with (folder / run_folder.SUMMARY).open("w") as stream, redirect_stdout(stream):
        print_summary(folder, run)
