"""A composed job, checked."""

from __future__ import annotations

from typing import Any

from eyas.core.errors import CheckpointError, ConfigError, DataError
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
    except (DataError, CheckpointError) as error:
        follows = (job.config.get("experiment") or {}).get("follows")
        raise type(error)(f"{error}; first eyas train -m experiment={follows}" if follows else str(error)) from error
    try:
        return config, load_run(config)
    except ConfigError as error:
        raise with_hint(error, job.overrides) from error
