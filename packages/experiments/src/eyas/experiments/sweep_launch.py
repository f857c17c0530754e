"""A sweep's jobs and Hydra's launchers: what they are handed, and what is made of it when they break."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from eyas.core.errors import EyasError, WorkerError
from eyas.experiments.hold import is_held
from eyas.experiments.run_records import STATUS, read_run
from eyas.experiments.sweep_job import THREADS, Runner
from eyas.experiments.sweep_machine import is_tied, lost_processes
from eyas.experiments.sweep_plan import Planned
from eyas.experiments.sweep_table import mark
from eyas.parallel.shares import Shares


def launch(planned: Sequence[Planned], launcher: Launcher, shares: Shares | None) -> None:
    """Runs the jobs, and notes the error of each that fails. Where the launcher loses a process, that job has failed,
    and those that had not begun are launched again."""
    twins = list({each.folder: each for each in reversed(planned)}.values())[::-1]
    left = twins
    while left:
        before = {each.folder: mark(each.folder / STATUS) for each in left}
        runner = Runner([each.sent for each in left], os.getpid(), is_tied(launcher), os.environ.get(THREADS), shares)
        vars(launcher)["task_function"] = runner
        try:
            returns = launcher.launch([each.job.overrides for each in left], initial_job_idx=0)
        except lost_processes() as error:
            begun = [each for each in left if mark(each.folder / STATUS) != before[each.folder]]
            _after_loss(begun, error)
            left = [each for each in left if each not in begun]
        else:
            for each, what in zip(left, returns, strict=True):
                each.error = _error(what)
            left = []
    for each in planned:
        each.error = next(twin.error for twin in twins if twin.folder == each.folder)


def _after_loss(begun: Sequence[Planned], error: Exception) -> None:
    """Notes how the jobs ended that had begun when the launcher lost a process. Raises WorkerError where nothing is
    known to have ended."""
    if held := [each for each in begun if is_held(each.folder)]:
        raise WorkerError(
            f"the launcher failed ({_described(error)}), and {len(held)} jobs still run by themselves; give the same "
            "command again when they have ended"
        ) from error
    if not begun:
        raise WorkerError(f"the launcher failed: {_described(error)}") from error
    for each in begun:
        record = read_run(each.folder)
        if record.state == "failed":
            each.error = WorkerError(record.error)
        elif record.state != "finished":
            each.error = WorkerError("the process of the job was lost (out of memory?)")
            each.sent.note(each.error)


def _error(what: JobReturn) -> EyasError | None:
    found = what._return_value
    if found is None or isinstance(found, EyasError):
        return found
    return WorkerError(_described(found))


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').partition(chr(10))[0]}"
