"""Workers of a run as forks of the test process, which has torch, Megatron and Lightning loaded: a training of two
steps takes a second instead of ten.

What the launcher does besides is tested in tests/test_runs.py and test_launch.py."""

import multiprocessing
import os
import socket
import sys
import traceback

from eyas.core.errors import WorkerError


def launch(run, module, arguments, processes):
    """Stands for `eyas.parallel.launch.launch`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (run / "ranks").mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=work, args=(run / "ranks" / str(rank), arguments, rank, processes, port))
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
    failed = [number for number, rank in enumerate(ranks) if rank.exitcode != 0]
    for rank in ranks:
        rank.kill()
    if failed:
        raise WorkerError(f"rank {failed[0]}: {(run / 'ranks' / str(failed[0])).read_text()}")


def work(log, arguments, rank, processes, port):
    """One rank, with its output in `log`."""
    import torch

    from eyas.experiments import worker

    with log.open("w") as stream:
        sys.stdout = sys.stderr = stream
        size, number = str(processes), str(rank)
        os.environ.update(
            RANK=number, LOCAL_RANK=number, GROUP_RANK="0", WORLD_SIZE=size, LOCAL_WORLD_SIZE=size,
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
        )  # fmt: skip
        torch.set_num_threads(1)
        sys.argv = ["worker", *arguments]
        try:
            worker.main()
        except BaseException:
            traceback.print_exc(file=stream)
            stream.flush()
            os._exit(1)
    os._exit(0)
