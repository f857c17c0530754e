import os
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from eyas.core.errors import LayoutError, WorkerError
from eyas.parallel.pool import WorkerPool, pool


class Unsendable(Exception):
    """An exception that pickles but cannot be loaded again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def rank_and(value: Any) -> tuple[int, Any]:
    return dist.get_rank(), value


def sum_of_ranks() -> float:
    total = torch.tensor(float(dist.get_rank()), dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()


def process() -> int:
    return os.getpid()


def sees_gpu() -> bool:
    return torch.cuda.is_available()


def fail_on(rank: int, kind: type[Exception], *args: Any) -> None:
    if dist.get_rank() == rank:
        raise kind(*args)
    dist.barrier()


def fail_in_turn() -> None:
    time.sleep(0.3 * (1 - dist.get_rank()))
    raise LayoutError(f"from rank {dist.get_rank()}")


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def sleep_on(rank: int) -> None:
    if dist.get_rank() == rank:
        time.sleep(60)


@pytest.mark.parametrize("size", [1, 2])
def test_results_come_by_rank_from_one_world(size: int) -> None:
    assert pool(size).run(rank_and, {"a": 1}) == [(rank, {"a": 1}) for rank in range(size)]
    assert pool(size).run(sum_of_ranks) == [sum(range(size))] * size


def test_workers_are_reused() -> None:
    assert pool(2).run(process) == pool(2).run(process)


def test_workers_compute_on_the_cpu() -> None:
    assert pool(2).run(sees_gpu) == [False, False]


def test_a_workers_error_arrives_as_itself_with_rank_and_traceback() -> None:
    with pytest.raises(LayoutError, match="does not fit") as caught:
        pool(2).run(fail_on, 1, LayoutError, "does not fit")
    note = "\n".join(caught.value.__notes__)
    assert "on rank 1 of 2" in note
    assert "raise kind(*args)" in note
    assert pool(2).run(sum_of_ranks) == [1, 1]


def test_the_first_of_several_errors_is_the_one_that_arrives() -> None:
    with pytest.raises(LayoutError, match="from rank 1"):
        pool(2).run(fail_in_turn)


def test_an_error_that_cannot_be_sent_arrives_as_text() -> None:
    with pytest.raises(WorkerError, match="Unsendable: first"):
        pool(2).run(fail_on, 0, Unsendable, "first", "second")


def test_a_killed_worker_is_reported_at_once_and_replaced() -> None:
    before = pool(2).run(process)
    started = time.monotonic()
    with pytest.raises(WorkerError, match="rank 1 of 2 was killed by SIGKILL"):
        pool(2).run(die_on, 1)
    assert time.monotonic() - started < 5
    assert not set(before) & set(pool(2).run(process))


def test_a_stuck_worker_is_reported() -> None:
    impatient = WorkerPool(2, timeout=0.5)
    impatient.run(process)
    with pytest.raises(WorkerError, match=r"ranks 1 of 2 did not answer within 0.5 s"):
        impatient.run(sleep_on, 1)
    assert impatient.processes == []
