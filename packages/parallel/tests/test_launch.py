import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eyas.core.errors import LayoutError, WorkerError
from eyas.parallel.launch import launch
from eyas.parallel.layout import cores_here
from eyas.parallel.rank_errors import Death, explain, report_errors, write_error

WORKER = """
import os, signal, sys, time
from pathlib import Path
from eyas.core.errors import LayoutError
from eyas.parallel.launch import report_errors

rank = int(os.environ["RANK"])
run, what = Path(sys.argv[1]), sys.argv[2]

def wait_in_a_collective():
    import torch.distributed as dist
    dist.init_process_group("gloo")
    (run / f"ready-{rank}").touch()
    while not all((run / f"ready-{r}").exists() for r in range(int(os.environ["WORLD_SIZE"]))):
        time.sleep(0.01)
    if rank != 1:
        dist.barrier()

def main():
    print("out of", rank, flush=True)
    if what == "environment":
        names = ("WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS")
        (run / f"saw-{rank}").write_text(" ".join(os.environ[name] for name in names))
    elif what == "refuse" and rank == 1:
        raise LayoutError("does not fit\\nat all")
    elif what == "break" and rank == 1:
        raise ZeroDivisionError("one over zero")
    elif what == "leave" and rank == 1:
        sys.exit("no such option")
    elif what == "killed":
        wait_in_a_collective()
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "interrupt" and rank == 0:
        os.kill(os.getppid(), signal.SIGINT)
    if what not in ("environment", "leave"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what != "environment":
        (run / f"pid-{rank}").write_text(str(os.getpid()))
        time.sleep(60)

if __name__ == "__main__":
    with report_errors(run):
        main()
"""
Launch = Callable[..., None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Launches the worker above in a run folder."""
    (tmp_path / "toy_worker.py").write_text(WORKER)
    path = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return lambda what, processes: launch(tmp_path, "toy_worker", [str(tmp_path), what], processes)


def alive(folder: Path) -> list[int]:
    """Workers that wrote down their process number and still run."""
    numbers = [int(file.read_text()) for file in folder.glob("pid-*") if file.read_text()]
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


def test_workers_form_one_job_and_know_nothing_of_another(
    start: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = dict(os.environ)
    start("environment", 2)
    threads = max(1, cores_here() // 2)
    assert [(tmp_path / f"saw-{rank}").read_text() for rank in (0, 1)] == [f"2 {rank} {threads}" for rank in (0, 1)]
    assert {number: signal.getsignal(number) for number in before} == before
    assert dict(os.environ) == environment


def test_rank_0_has_the_terminal_and_the_others_a_file(
    start: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start("environment", 2)
    assert capfd.readouterr() == ("out of 0\n", "")
    assert (tmp_path / "ranks" / "rank-1.out").read_text() == "out of 1\n"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("refuse", r"^rank 1 failed: does not fit$"),
        ("break", r"^rank 1 failed: ZeroDivisionError: one over zero; traceback in .*error-1.txt$"),
        ("leave", r"^rank 1 failed with exit code 1: no such option$"),
        ("killed", r"^rank 1 was killed by SIGKILL \(out of memory\?\)$"),
    ],
)
def test_the_first_failure_is_told_at_once_and_nothing_outlives_it(
    start: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str, message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError, match=message):
        start(what, 3)
    assert time.monotonic() - started < 12
    assert alive(tmp_path) == []
    assert capfd.readouterr().err == ""


def test_an_interrupt_ends_the_workers_quietly(
    start: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        start("interrupt", 2)
    assert time.monotonic() - started < 10
    assert alive(tmp_path) == []
    assert capfd.readouterr() == ("out of 0\n", "")


def test_a_process_that_is_a_rank_already_runs_the_worker_as_that_rank(
    start: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "3"}.items():
        monkeypatch.setenv(name, value)
    start("environment", 2)
    assert (tmp_path / "saw-1").read_text() == "2 1 3"
    with pytest.raises(WorkerError, match=r"^rank 1 failed: does not fit$"):
        start("refuse", 2)
    assert "LayoutError: does not fit" in capfd.readouterr().err
    with pytest.raises(WorkerError, match=r"^rank 1 failed with exit code 1"):
        start("leave", 2)


def failed(folder: Path, rank: int, error: Exception, second: float) -> Death:
    """A rank that wrote down its error."""
    write_error(folder, rank, error)
    file = folder / f"error-{rank}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "timestamp": second}))
    return Death(rank, 1, int(second))


def test_a_rank_forgets_the_error_of_an_earlier_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = tmp_path / "ranks"
    ranks.mkdir()
    for rank in (0, 1):
        write_error(ranks, rank, ValueError("earlier"))
    monkeypatch.setenv("RANK", "1")
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with report_errors(tmp_path):
            assert sorted(file.name for file in ranks.iterdir()) == ["error-0.json", "error-0.txt"]
    finally:
        signal.signal(signal.SIGINT, interrupt)


def test_the_earliest_error_is_the_cause(tmp_path: Path) -> None:
    deaths = [failed(tmp_path, 0, ValueError("later"), 10.4), failed(tmp_path, 1, LayoutError("first"), 10.2)]
    assert explain(tmp_path, deaths) == "rank 1 failed: first"


def test_a_lost_connection_is_no_cause(tmp_path: Path) -> None:
    lost = failed(tmp_path, 0, RuntimeError("Connection closed by peer"), 10.2)
    assert explain(tmp_path, [lost, Death(1, 7, 10)]) == "rank 1 failed with exit code 7"
    assert "rank 1 failed: ValueError" in explain(tmp_path, [lost, failed(tmp_path, 1, ValueError("own"), 10.3)])
    assert "rank 0 failed: RuntimeError: Connection closed" in explain(tmp_path, [lost])


def test_a_rank_that_was_asked_to_end_is_the_cause_of_lost_connections(tmp_path: Path) -> None:
    lost = failed(tmp_path, 0, RuntimeError("Connection closed by peer"), 10.2)
    assert explain(tmp_path, [lost, Death(1, -signal.SIGTERM, 10)]) == "rank 1 was killed by SIGTERM"


def test_a_crash_comes_before_what_it_caused(tmp_path: Path) -> None:
    caused = failed(tmp_path, 0, ValueError("no answer"), 10.2)
    assert explain(tmp_path, [caused, Death(1, -signal.SIGSEGV, 11)]) == "rank 1 was killed by SIGSEGV"


def test_ranks_that_the_launcher_ended_are_no_cause(tmp_path: Path) -> None:
    cause = failed(tmp_path, 1, ValueError("own"), 10.2)
    ended = [Death(0, -signal.SIGTERM, 10), Death(2, -signal.SIGKILL, 13)]
    assert "rank 1 failed: ValueError: own" in explain(tmp_path, [*ended, cause])


def test_torch_gives_no_setting_for_its_patience() -> None:
    """Where this fails, `launch` can set the time that torch waits for ranks after a failure, and patch nothing."""
    from torch.distributed.elastic.multiprocessing import PContext

    assert PContext.close.__defaults__ == (None, 30)
    assert sys.modules["torch.distributed.launcher.api"].LaunchConfig(1, 1, 1).shutdown_timeout in (None, 30)


def test_workers_do_not_outlive_a_launcher_that_is_killed(start: Launch, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from eyas.parallel.launch import launch; "
        "launch(Path(sys.argv[1]), 'toy_worker', [sys.argv[1], 'wait'], 2)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(alive(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(alive(tmp_path)) == 2
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 10
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(tmp_path) == []


def test_off_the_terminal_every_rank_has_files(
    start: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launch(tmp_path, "toy_worker", [str(tmp_path), "environment"], 2, on_terminal=False)
    assert capfd.readouterr().out == ""
    assert [(tmp_path / "ranks" / f"rank-{rank}.out").read_text() for rank in (0, 1)] == ["out of 0\n", "out of 1\n"]
