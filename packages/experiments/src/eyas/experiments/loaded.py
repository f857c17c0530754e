"""A composed job, checked."""

from __future__ import annotations

import shlex
from typing import Any

from eyas.core.errors import ConfigError, DataError
from eyas.experiments.branch_from import with_branch
from eyas.experiments.compose import Job
from eyas.experiments.compose_errors import with_hint
from eyas.experiments.derived import with_derived
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.start_from import with_start


def load_job(job: Job) -> tuple[dict[str, Any], RunConfig]:
    """The job's configuration as it is written down, and typed. Raises ConfigError, LayoutError, DataError or
    CheckpointError where it cannot be run."""
    try:
        config = with_branch(with_derived(with_start(job), job.overrides))
    except DataError as error:
        if (first := what_comes_first(job)) is None:
            raise
        raise DataError(f"{error}; first {first}") from error
    try:
        return config, load_run(config)
    except ConfigError as error:
        raise with_hint(error, job.overrides) from error


def what_comes_first(job: Job) -> str | None:
    """The command that trains what the job's experiment follows; None where it follows nothing, or where the command
    line named the run to go on from."""
    follows = (job.config.get("experiment") or {}).get("follows")
    if follows is None or any(override.startswith(("start_from=", "branch_from=")) for override in job.overrides):
        return None
    runs = [override for override in job.overrides if override.startswith("runs=")]
    return shlex.join(["eyas", "train", "-m", f"experiment={follows}", *runs])
