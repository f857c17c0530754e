"""Whether what a run holds from its first step to its last fits the memory of one machine."""

from __future__ import annotations

import os

from eyas.core.counted import counted
from eyas.core.errors import ConfigError
from eyas.experiments.dry_run import ELEMENT, bytes_per_weight, held_by_ranks
from eyas.experiments.run_config import RunConfig

GIB = 2**30


def memory_here() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(run: RunConfig, memory: int) -> None:
    """Raises ConfigError where the weights of all ranks, with their gradients and moments, exceed `memory` bytes. Of a
    run with frozen weights, which have neither, the weights alone are counted."""
    frozen = run.optimizer.frozen
    what, each = (
        ("weights", ELEMENT[run.trainer.precision]) if frozen else ("weights and optimizer", bytes_per_weight(run))
    )
    kinds = [held.weights for held in held_by_ranks(run, run.spec)]
    needed = sum(kinds) * run.layout.processes // len(kinds) * each
    if needed > memory:
        processes = counted(run.layout.processes, "process", "processes")
        raise ConfigError(
            f"{run.spec.name}: {what} of {processes} take {needed / GIB:,.1f} GiB, and this "
            f"machine has {memory / GIB:,.1f} GiB; choose a smaller model, or start the run under torchrun or SLURM on "
            "more machines"
        )
