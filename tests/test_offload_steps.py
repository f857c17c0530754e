"""Training whose optimizer keeps moments in the host's memory, under layouts; the CPU stands for a GPU, and marked
tensors for those on the host."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from models import BALANCED, falcon_h1, mixture

from eyas.layers.testing import Trial, run
from eyas.layers.testing.checkpoints import load_here, save_here
from eyas.layers.testing.layouts import engine_here, microbatches_here, train_here
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool

LAYOUTS = {
    "one process": Layout(),
    "replicas": Layout(data=2),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True),
    "pipeline": Layout(pipeline=2, data=2, distributed_optimizer=True),
    "experts": Layout(tensor=2, sequence=True, expert=2, expert_tensor=1),
}
USUAL = OptimizerOptions(learning_rate=1e-3)


def marked(weight):
    """Stands for `place_on_host`."""
    place = torch.zeros_like(weight, requires_grad=False)
    place.on_host = True
    return place


def offloaded(function, *arguments):
    """A rank's part of something, on a machine that passes for one with a GPU."""
    from eyas.parallel import offload

    with (
        patch.object(OptimizerOptions, "check_device", lambda self, gpu: None),
        patch.object(offload.MomentsOnHost, "at_once", 1000),
        patch.object(offload, "place_on_host", marked),
    ):
        return function(*arguments)


def model_for(layout):
    return falcon_h1() if layout.expert == 1 else mixture(**BALANCED)


def with_share(trial, share):
    return replace(trial, optimizer=replace(trial.optimizer, cpu_offload=share))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_steps_are_the_same(layout, dtype):
    trial = Trial(model=model_for(layout), steps=3, dtype=dtype, optimizer=USUAL)
    expected = run(trial, layout)
    actual = pool(layout.processes).run(offloaded, train_here, with_share(trial, 0.5), layout)[0]
    assert actual.losses == expected.losses
    assert actual.grad_norms == expected.grad_norms
    assert all(torch.equal(actual.weights[name], weight) for name, weight in expected.weights.items())


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_share_is_in_the_hosts_memory(layout, share):
    trial = with_share(Trial(model=model_for(layout), dtype=torch.bfloat16), share)
    for parts in pool(layout.processes).run(offloaded, moments_here, trial, layout):
        for on_host, largest, everywhere in parts:
            assert share * everywhere <= on_host <= share * everywhere + largest


def moments_here(trial, layout):
    """The entries of first moments, for each optimizer of this rank: of those on the host, of the largest, of all."""
    engine = engine_here(trial, layout)
    engine.train_step(microbatches_here(trial, layout, 0))
    engine.update(1e-3, 0.1)
    parts = []
    for single in engine.optimizer.chained_optimizers:
        moments = [state["exp_avg"] for state in single.optimizer.state.values()]
        on_host = sum(moment.numel() for moment in moments if hasattr(moment, "on_host"))
        sizes = [moment.numel() for moment in moments]
        parts.append((on_host, max(sizes), sum(sizes)))
    return parts


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("name", ["one process", "distributed optimizer"])
def test_a_checkpoint_is_the_same(tmp_path, name, before, after):
    layout, folder = LAYOUTS[name], tmp_path / "step-1"
    trial = Trial(model=model_for(layout), dtype=torch.bfloat16, optimizer=USUAL)
    workers = pool(layout.processes)
    saved, expected = workers.run(offloaded, save_here, with_share(trial, before), layout, folder)[0]
    loaded, actual = workers.run(offloaded, load_here, with_share(trial, after), layout, folder)[0]
    for weight, value in expected.items():
        assert torch.equal(loaded[weight], saved[weight]), weight
        assert torch.equal(actual[weight], value), weight
