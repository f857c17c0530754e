"""Whether this process is already a rank of a job that torchrun or SLURM started."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from eyas.core.errors import ConfigError

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed reads to join a job; torchrun sets them."""
FIRST_PORT, PORTS = 20000, 10000
"""Ports that SLURM jobs meet on: below those that Linux hands out by itself."""


@dataclass(frozen=True)
class Joined:
    """This process's place in a job."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the processes of this machine."""
    launcher: str
    """torchrun or SLURM."""


def joined(environment: MutableMapping[str, str] = os.environ) -> Joined | None:
    """This process's place in the job that torchrun or SLURM started it in, or None for a process on its own.

    For a SLURM job the variables that torch.distributed reads are set in `environment` on the way. A SLURM step of one
    task counts as a process on its own: it may start local workers.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _place(environment, "torchrun")
    if "SLURM_STEP_ID" not in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return None
    environment.update(rank_variables(environment))
    return _place(environment, "SLURM")


def rank_variables(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch.distributed needs to know, from the variables of a SLURM step. Its ranks meet on the step's first
    machine, on a port that follows from the job and the step."""
    hosts = slurm.get("SLURM_STEP_NODELIST") or _needed(slurm, "SLURM_JOB_NODELIST")
    job, step = int(_needed(slurm, "SLURM_JOB_ID")), int(slurm["SLURM_STEP_ID"])
    return {
        "RANK": _needed(slurm, "SLURM_PROCID"),
        "WORLD_SIZE": _needed(slurm, "SLURM_STEP_NUM_TASKS"),
        "LOCAL_RANK": _needed(slurm, "SLURM_LOCALID"),
        "GROUP_RANK": slurm.get("SLURM_NODEID", "0"),
        "MASTER_ADDR": first_host(hosts),
        "MASTER_PORT": str(FIRST_PORT + (job + step) % PORTS),
    }


def first_host(hosts: str) -> str:
    """First machine of a SLURM node list: `gpu[003-007,9],login1` begins with gpu003."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    if first is None:
        raise ConfigError(
            f"SLURM's node list {hosts!r} names no machine; set MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE"
        )
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _place(environment: Mapping[str, str], launcher: str) -> Joined:
    numbers = {name: _needed(environment, name) for name in ("RANK", "WORLD_SIZE")}
    numbers["LOCAL_RANK"] = environment.get("LOCAL_RANK", "0")
    for name, value in numbers.items():
        if not value.isdecimal():
            raise ConfigError(
                f"the environment says {name}={value!r}, which is no number; unset it or start under torchrun"
            )
    rank, world_size, local_rank = (int(value) for value in numbers.values())
    if rank >= world_size:
        raise ConfigError(
            f"the environment says RANK={rank} of WORLD_SIZE={world_size}; unset both or start under torchrun"
        )
    return Joined(rank, world_size, local_rank, launcher)


def _needed(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise ConfigError(f"this process is part of a job, but {name} is not set; start it with torchrun or srun")
    return environment[name]
