"""What a step's own metrics cost: steps with each of them switched off in turn, side by side in one training.

python benchmarks/metrics.py [--data 1] [--steps 12]

Steps take turns: all metrics, no times of parts (nor the wait before the reduction), no gradient norms by kind. What is
printed is the median of each turn, and what the metric adds to the step, of the quickstart's model and batch.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from eyas.core.schema import load
from eyas.experiments.model_group import model_group
from eyas.layers.testing import Trial
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.over_ranks import over_ranks
from eyas.parallel.pool import pool, preload
from eyas.parallel.step_clock import DATA

TURNS = ("all", "no times", "no norms by kind")


def seconds_here(trial: Trial, layout: Layout) -> dict[str, list[float]]:
    """This rank's part: seconds of the steps of each turn; of processor time where it is alone, which other processes
    on the machine do not lengthen."""
    clock = time.process_time if layout.processes == 1 else time.perf_counter
    engine = engine_here(trial, layout)
    norms, found = engine.norms_of_gradients, {turn: [] for turn in TURNS}
    for step in range(trial.steps * len(TURNS) + len(TURNS)):
        turn = TURNS[step % len(TURNS)]
        batches = microbatches_here(trial, layout, step)
        torch.distributed.barrier()
        started = clock()
        if turn != "no times":
            engine.clock.start(DATA)
        engine.norms_of_gradients = (lambda: {}) if turn == "no norms by kind" else norms
        engine.train_step(batches)
        engine.update(1e-3, 0.1)
        engine.clock.stop()
        if turn != "no times":
            over_ranks([0.0, 0.0, *(engine.clock.seconds() or {}).values()])
        if step >= len(TURNS):  # the first of each turn warms up
            found[turn].append(clock() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=int, default=1, help="replicas")
    parser.add_argument("--steps", type=int, default=12, help="of each turn")
    options = parser.parse_args()
    preload()
    layout = Layout(data=options.data)
    trial = Trial(
        model=model_group("falcon_h1_tiny"),
        steps=options.steps,
        global_batch=8,
        microbatch=4,
        sequence_length=256,
        dtype=torch.float32,
        optimizer=load(OptimizerOptions, {}),
    )
    found = pool(layout.processes).run(seconds_here, trial, layout)[0]
    whole = median(found["all"])
    for turn, seconds in found.items():
        print(f"{turn:<18}{median(seconds) * 1000:9.1f} ms   it adds {1 - median(seconds) / whole:+.2%}")


if __name__ == "__main__":
    main()
