"""The parts of a step that ranks measure: known costs are found where they were spent, and they sum to the step."""

import time

import pytest
import torch

from benchmarks.bubble import HIDDEN, CostingStage, Sleeper
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool
from eyas.parallel.step_clock import BACKWARD, DATA, FORWARD, REDUCTION, WAITING

SLEEP, DATA_SLEEP = 0.02, 0.03
"""Seconds of a forward pass, half those of a backward one, and of making a batch."""


def parts_here(layout, microbatches, sleeps):
    """This rank's part: the seconds of each part of a step, and of all of it. `sleeps` are the ranks' forward times."""
    from eyas.parallel.engine import Engine
    from eyas.parallel.groups import initialise
    from eyas.parallel.this_rank import stages_here

    initialise(layout)
    end = layout.stage_count - 1
    stages = [CostingStage(sleeps[torch.distributed.get_rank()], n, n == 0, n == end) for n in stages_here(layout)]
    for stage in stages:
        stage.worker = Sleeper()
    engine = Engine(
        stages, layout, hidden_size=HIDDEN, dtype=torch.float32, optimizer=OptimizerOptions(learning_rate=1e-3)
    )
    batch = {"tokens": torch.ones(1, 2, dtype=torch.long), "labels": torch.ones(1, 2, dtype=torch.long)}
    for _ in range(2):
        torch.distributed.barrier()
        started = time.perf_counter()
        engine.clock.start(DATA)
        time.sleep(DATA_SLEEP)
        engine.train_step([batch] * microbatches)
        engine.update(1e-3, 0.0)
        engine.clock.stop()
        seconds = time.perf_counter() - started
    return engine.clock.seconds(), seconds


LAYOUTS = [(Layout(), 3), (Layout(pipeline=2), 4), (Layout(pipeline=2, virtual_pipeline=2), 4), (Layout(data=2), 3)]


@pytest.mark.parametrize(("layout", "microbatches"), LAYOUTS, ids=["one", "pipeline", "interleaved", "data"])
def test_time_is_found_where_it_was_spent(layout, microbatches):
    chunks = layout.virtual_pipeline
    for parts, seconds in pool(layout.processes).run(parts_here, layout, microbatches, [SLEEP] * layout.processes):
        assert sum(parts.values()) == pytest.approx(seconds, rel=0.02)
        assert parts[DATA] >= DATA_SLEEP
        assert parts[FORWARD] >= chunks * microbatches * SLEEP
        assert parts[BACKWARD] >= chunks * microbatches * 2 * SLEEP
        if layout.pipeline > 1:  # the bubble: the other rank's first forward and last backward pass
            assert parts[WAITING] >= 0.9 * 3 * SLEEP


def test_a_replica_waits_for_the_slower_one_and_not_in_the_reduction():
    (fast, _), (slow, _) = pool(2).run(parts_here, Layout(data=2), 3, [SLEEP, 4 * SLEEP])
    ahead = sum(slow[part] - fast[part] for part in (DATA, FORWARD, BACKWARD))
    assert ahead > 0.1  # of a set 0.54; a busy machine lets both work longer
    assert fast[WAITING] - slow[WAITING] == pytest.approx(ahead, rel=0.2)
    assert abs(fast[REDUCTION] - slow[REDUCTION]) < 0.5 * ahead
