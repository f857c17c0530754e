"""Jobs whose processes torchrun or SLURM started."""

import os
import re
import socket
import subprocess
import sys

import pytest
from small_runs import SMALL, losses, train, write_texts


@pytest.mark.slow
def test_torchrun_may_start_the_ranks(tmp_path):
    write_texts(tmp_path)
    environment = {**os.environ, "EYAS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "eyas.experiments.cli", "train", "data.files=text*.txt", *SMALL, "name=joined", "layout.tensor=2"]
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    (folder,) = (tmp_path / "runs" / "joined").iterdir()
    expected, actual = losses(train(tmp_path, "one")), losses(folder)
    assert max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)) < 1e-4


def test_ranks_of_a_joined_job_end_when_the_first_one_refuses(tmp_path):
    """SLURM leaves the others waiting where torchrun ends them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "eyas.experiments.cli", "train", "trainer.max_step=5"]
    ranks = [
        subprocess.Popen(
            command, cwd=tmp_path, env={**job, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    (_, first), (_, second) = (rank.communicate(timeout=90) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 1]
    assert re.fullmatch(r"eyas: .*unknown option 'max_step'.*\n", first)
    assert second == "eyas: rank 1 failed with exit code 2; rank 0 or the lines above say why\n"
