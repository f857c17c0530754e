"""bfloat16: what stays in float32, and that layouts and resumed runs follow the curve of one process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import MIXERS, falcon_h1, holding, mixture

from eyas.core.mixer import held
from eyas.layers.norm import RMSNorm
from eyas.layers.testing import Trial, run
from eyas.layers.testing.checkpoints import load_here, save_here
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool

NARROW, WIDE = torch.bfloat16, torch.float32
LAYOUTS = {
    "one process": Layout(),
    "tensor and sequence": Layout(tensor=2, sequence=True),
    "pipeline": Layout(pipeline=2),
    "data": Layout(data=2),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True),
    "context": Layout(context=2),
    "recomputed": Layout(data=2, recompute="full", overlap=True),
    "experts": Layout(tensor=2, sequence=True, data=2, expert=2, distributed_optimizer=True, overlap=True),
    "interleaved": Layout(pipeline=2, virtual_pipeline=2, data=2, distributed_optimizer=True, overlap=True),
    "three at once": Layout(tensor=2, pipeline=2, data=2, distributed_optimizer=True, overlap=True),
    "branches on halves": Layout(tensor=2, sequence=True, branches="swapped", loss_chunk=8),
    "heads exchanged": Layout(tensor=2, context=2, context_exchange="alltoall", context_order="contiguous"),
    "recomputed parts": Layout(context=2, pipeline=2, recompute=("norm", "ssm"), loss_chunk=8),
    "chosen stages": Layout(pipeline=2, stages="auto", data=2, distributed_optimizer=True),
    "folded": Layout(tensor=2, sequence=True, expert=2, expert_tensor=1, dispatcher="allgather"),
}
SEVERAL = {name: layout for name, layout in LAYOUTS.items() if layout.processes > 1}
SLOW_RATE, FAST_RATE = 3e-4, 1e-3
"""Learning rates. At the fast one a training amplifies roundings so much that one process parts from itself by 2e-2 if
only its microbatches are others; a layout's share cannot be told there."""
FOLLOWS = 2e-2
"""Relative to the loss. A layout adds up in another order and each sum is rounded to 8 bits, 2^-9 = 2e-3; weights that
differ by a rounding then part as the training amplifies it, by 8e-3 at most over these 24 steps at the slow rate."""
NEAR_FLOAT32 = 5e-2
"""So does bfloat16 from float32, by 3e-2."""


class Repeated(Trial):
    """The same two batches again and again, which can be learnt."""

    def batch(self, step):
        return super().batch(step % 2)


def trial(model=None, rate=SLOW_RATE, **options):
    optimizer = OptimizerOptions(learning_rate=rate, clip_norm=1.0)
    return Repeated(model=model or falcon_h1(tied=True), dtype=NARROW, optimizer=optimizer, **options)


WIDE_NAMES = ("A_log", "D", "dt_bias", "router", "selection_bias")
"""Weights of float32 whatever the rest is in."""


def dtypes_here(trial, layout):
    """One rank's part: what has which dtype after a step, as (what, dtype, dtype that it should have)."""
    found = []
    engine = engine_here(trial, layout)
    stages = [chunk.module for chunk in engine.chunks]
    for name, module in engine.model.named_modules():
        if isinstance(module, RMSNorm):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: found.extend(
                    [(f"input of {name}", inputs[0].dtype, NARROW), (f"output of {name}", output.dtype, NARROW)]
                )
            )
    for stage in stages:
        stage.register_forward_hook(
            lambda stage, _, output: found.append(
                ("loss", output.dtype, WIDE) if stage.post_process else ("sent activations", output.dtype, NARROW)
            )
        )
    engine.train_step(microbatches_here(trial, layout, 0))
    found.extend(("received activations", s.received.dtype, NARROW) for s in stages if s.received is not None)
    engine.update(1e-3, 0.1)
    for name, tensor, weight, _ in held(engine.model):
        found.append((name, tensor.dtype, WIDE if name.rpartition(".")[2] in WIDE_NAMES else NARROW))
        if weight.trained:
            wide = trial.wide_gradients or tensor.dtype == WIDE
            found.append((f"gradient of {name}", tensor.main_grad.dtype, WIDE if wide else NARROW))
    for group in engine.optimizer.param_groups:
        for master in group["params"]:
            found.append((f"master weight {tuple(master.shape)}", master.dtype, WIDE))
    for optimizer in engine.optimizer.chained_optimizers:
        for tensors in optimizer.optimizer.state.values():
            found.extend((f"Adam's {name}", tensor.dtype, WIDE) for name, tensor in tensors.items())
    return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_what_is_narrow_and_what_is_wide(layout):
    model = with_experts() if layout.sequence or layout.tensor == 1 else falcon_h1()
    for found in pool(layout.processes).run(dtypes_here, trial(model), layout):
        assert len(found) > 50
        assert [entry for entry in found if entry[1] != entry[2]] == []


@pytest.mark.parametrize("name", ["one process", "data", "distributed optimizer", "tensor and sequence"])
def test_gradients_may_be_added_up_in_bfloat16(name):
    layout = LAYOUTS[name]
    for found in pool(layout.processes).run(dtypes_here, trial(wide_gradients=False), layout):
        assert [entry for entry in found if entry[1] != entry[2]] == []
        assert NARROW in {dtype for what, dtype, _ in found if what.startswith("gradient of")}


def with_experts():
    """A Falcon-H1 whose router is balanced by a bias."""
    model = falcon_h1() | {"pattern": ["ssm+attn", "ffn", "moe"]}
    model["layers"]["moe"] = {**mixture()["layers"]["moe"], "score": "sigmoid", "selection_bias_rate": 0.01}
    return model


STEPS = 24


@pytest.fixture(scope="module")
def curve():
    """Losses of one process in bfloat16."""
    return losses(trial(steps=STEPS), Layout())


def losses(trial, layout):
    return [step["loss"] for step in run(trial, layout).losses]


def parting(actual, expected):
    return max(abs(a - e) / e for a, e in zip(actual, expected, strict=True))


def test_bfloat16_learns_as_float32_does():
    narrow = trial(rate=FAST_RATE, steps=STEPS)
    actual, expected = (losses(replace(narrow, dtype=dtype), Layout()) for dtype in (NARROW, WIDE))
    assert expected[-1] < 0.75 * expected[0]
    assert 0 < parting(actual, expected) < NEAR_FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize("layout", SEVERAL.values(), ids=SEVERAL.keys())
def test_every_layout_follows_the_curve_of_one_process(curve, layout):
    if layout.expert == 1:
        assert parting(losses(trial(steps=STEPS), layout), curve) < FOLLOWS
        return
    mixed = trial(with_experts(), steps=STEPS)
    assert parting(losses(mixed, layout), losses(mixed, Layout())) < FOLLOWS


@pytest.mark.parametrize("name", ["tensor and sequence", "pipeline", "context", "data"])
def test_gradients_are_as_exact_as_those_of_one_process(name):
    """Those that nearly cancel out are anything in bfloat16, under any layout."""
    exact, alone, several = (
        run(replace(trial(), dtype=dtype), layout).gradients
        for dtype, layout in ((torch.float64, Layout()), (NARROW, Layout()), (NARROW, LAYOUTS[name]))
    )
    for name, gradient in exact.items():
        error, allowed = ((found[name] - gradient).norm() / gradient.norm() for found in (several, alone))
        assert error <= 4 * allowed + 0.05, name


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_every_mixer_follows_under_tensor_parallelism(mixer):
    short = trial(holding(mixer), steps=6)
    assert parting(losses(short, Layout(tensor=2, sequence=True)), losses(short, Layout())) < FOLLOWS


PAIRS = {
    "one process": (Layout(), Layout()),
    "distributed optimizer": (SEVERAL["distributed optimizer"], SEVERAL["distributed optimizer"]),
    "three at once": (SEVERAL["three at once"], SEVERAL["three at once"]),
    "experts": (SEVERAL["experts"], SEVERAL["experts"]),
    "to the distributed optimizer": (Layout(), SEVERAL["distributed optimizer"]),
    "from the distributed optimizer": (SEVERAL["distributed optimizer"], Layout()),
    "to one process from experts": (SEVERAL["experts"], Layout(distributed_optimizer=True)),
    "to tensor parallelism": (Layout(), SEVERAL["tensor and sequence"]),
    "to a pipeline": (Layout(), SEVERAL["pipeline"]),
    "to other replicas": (SEVERAL["distributed optimizer"], Layout(tensor=2, distributed_optimizer=True)),
}


@pytest.mark.parametrize(("saved", "loaded"), PAIRS.values(), ids=PAIRS.keys())
def test_training_goes_on_from_a_checkpoint(tmp_path: Path, saved, loaded):
    short = trial(with_experts() if saved.expert > 1 else None)
    before, expected = pool(saved.processes).run(save_here, short, saved, tmp_path / "step-1")[0]
    after, actual = pool(loaded.processes).run(load_here, short, loaded, tmp_path / "step-1")[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    for name, weight in expected.items():
        if saved == loaded:
            assert torch.equal(actual[name], weight), name
        else:
            assert (actual[name] - weight).abs().max() <= 4 * trial().optimizer.learning_rate, name
