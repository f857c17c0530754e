"""Workers of a run as forks of one process that has torch, Megatron and Lightning loaded: a training of two steps takes
two seconds instead of ten.

That process does nothing but fork, so that no thread of it is ever forked away from its locks. What the launcher does
besides is tested in tests/test_runs.py and test_launch.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

from eyas.core.errors import WorkerError

LIMIT = 300
"""Seconds after which a rank counts as stuck, and ends; the longest runs take a fifth of it on two idle cores."""


class Forks:
    """Starts ranks in the place of `eyas.parallel.launch.launch`."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip

    def launch(self, run, module, arguments, processes, *, on_terminal=True):
        """Runs the worker as `processes` ranks, to their end."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = run / "ranks"
        ranks.mkdir(exist_ok=True)
        asked = {"folder": str(Path.cwd()), "path": sys.path, "logs": str(ranks.absolute()), "port": port}
        self.server.stdin.write(json.dumps({**asked, "arguments": arguments, "processes": processes}) + "\n")
        self.server.stdin.flush()
        failed = json.loads(self.server.stdout.readline())
        if failed:
            raise WorkerError(f"rank {failed[0]}: {(ranks / str(failed[0])).read_text()}")

    def close(self):
        self.server.stdin.close()
        self.server.wait(timeout=30)


def serve():
    """Forks the ranks that each line of the input asks for; answers with the numbers of those that failed."""
    from eyas.experiments import worker

    for line in sys.stdin:
        asked = json.loads(line)
        ranks = {}
        for rank in range(asked["processes"]):
            ranks[os.fork() or work(worker.main, rank, asked)] = rank
        ends = [os.wait() for _ in ranks]
        print(json.dumps([ranks[process] for process, status in ends if status]), flush=True)


def work(main, rank, asked):
    """One rank, with its output in a file; does not return."""
    code = 1
    signal.alarm(LIMIT)
    with Path(asked["logs"], str(rank)).open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            os.chdir(asked["folder"])
            sys.path[:] = asked["path"]
            size, number = str(asked["processes"]), str(rank)
            os.environ.update(
                RANK=number, LOCAL_RANK=number, GROUP_RANK="0", WORLD_SIZE=size, LOCAL_WORLD_SIZE=size,
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(asked["port"]), TORCHELASTIC_RUN_ID="test",
            )  # fmt: skip
            sys.argv = ["worker", *asked["arguments"]]
            main()
            code = 0
        except BaseException:
            traceback.print_exc(file=log)
        finally:
            log.flush()
            os._exit(code)


if __name__ == "__main__":
    serve()
