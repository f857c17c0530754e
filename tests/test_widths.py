"""The coordinate check of the maximal-update parametrisation: what blocks write, over widths."""

import pytest
import torch

from eyas.layers.testing import Trial
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.pool import pool

WIDTHS = 64, 128, 256, 512
STEPS = 10


def model(hidden_size: int, **options) -> dict:
    """A small hybrid whose inner widths grow with its own, by more heads."""
    layers = {
        "ssm": {"kind": "mamba2", "num_heads": hidden_size // 16, "head_dim": 32, "state_size": 16},
        "attn": {"kind": "attention", "num_heads": hidden_size // 16, "head_dim": 16},
        "ffn": {"kind": "mlp", "intermediate_size": 3 * hidden_size},
    }
    stack = {"pattern": ["ssm+attn", "ffn"], "repeat": 2, "init_std": 0.1}
    return {"hidden_size": hidden_size, "vocab_size": 64, "layers": layers, **stack, **options}


def outputs_after(steps: int, trial: Trial, layout: Layout) -> dict[str, float]:
    """The root mean square of each block's output, after so many steps on one batch."""
    engine = engine_here(trial, layout, watch=True)
    for _ in range(steps + 1):
        engine.train_step(microbatches_here(trial, layout, 0))
        engine.update(trial.optimizer.learning_rate, 0.0)
    return {name: figures["rms"].item() for name, figures in engine.figures.items()}


def spread(**options) -> float:
    """Of the block that width changes most: the largest over the smallest of its outputs' sizes."""
    optimizer = OptimizerOptions(learning_rate=1e-3, clip_norm=0.0)
    over_widths = []
    for width in WIDTHS:
        trial = Trial(
            model=model(width, **options), dtype=torch.float32, sequence_length=32, microbatch=4, optimizer=optimizer
        )
        over_widths.append(pool(1).run(outputs_after, STEPS, trial, Layout())[0])
    return max(max(sizes) / min(sizes) for sizes in ([found[name] for found in over_widths] for name in over_widths[0]))


LAWS = {
    "by learning rates": {"mup_base": 64},
    "by multipliers": {"mup_base": 64, "mup": "falcon_h1", "init_std": 0.02},
}


@pytest.mark.parametrize("options", LAWS.values(), ids=LAWS)
def test_width_does_not_change_what_blocks_write_with_a_law(options):
    assert spread(**options) < 1.15


def test_without_the_law_it_does():
    assert spread() > 2


@pytest.mark.parametrize(
    "layout",
    [Layout(tensor=2, sequence=True), Layout(pipeline=2), Layout(data=2)],
    ids=["sequence", "pipeline", "data"],
)
def test_a_layout_does_not_change_what_is_told(layout):
    trial = Trial(model=model(64, repeat=1))
    told, expected = (pool(at.processes).run(outputs_after, 0, trial, at)[0] for at in (layout, Layout()))
    assert told == pytest.approx(expected, rel=1e-12)
    assert list(told) == ["outputs.0", "outputs.1"]
