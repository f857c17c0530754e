"""Frozen parts and learning rates of their own, under every layout."""

from dataclasses import replace

import pytest
import torch
from models import mixture

from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.core.schema import load
from eyas.layers.rank_model import check_optimizer
from eyas.layers.testing import Trial, assert_checkpoint_loads, assert_equal_outcomes, run
from eyas.layers.testing.layouts import engine_here, microbatches_here
from eyas.parallel.layout import Layout
from eyas.parallel.options import GroupOptions, OptimizerOptions
from eyas.parallel.pool import pool

MODEL = {
    "hidden_size": 16,
    "vocab_size": 50,
    "init_std": 0.2,
    "tie_embeddings": True,
    "mup_base": 8,
    "layers": {
        "ssm": {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 4},
        "attn": {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4},
        "ffn": {"kind": "mlp", "intermediate_size": 24},
    },
    "pattern": ["ssm+attn", "ffn"],
    "repeat": 2,
}
SLOW = {"slow": GroupOptions(parts=("mlp", "norm"), learning_rate_factor=0.1, weight_decay_factor=0.5)}
LAYOUTS = {
    "tensor and sequence": Layout(tensor=2, sequence=True),
    "pipeline": Layout(pipeline=2),
    "data, overlapped": Layout(data=2, overlap=True),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True),
}


def trial(*frozen: str, **options) -> Trial:
    """Two steps with these parts frozen; clipped, so that the gradient's norm matters."""
    clip = options.pop("clip_norm", 0.5)
    optimizer = OptimizerOptions(learning_rate=1e-2, clip_norm=clip, frozen=frozen, **options)
    return Trial(model=MODEL, optimizer=optimizer, microbatch=2)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_changes_nothing(layout):
    tried = trial("embedding", "ssm", groups=SLOW)
    assert_equal_outcomes(run(tried, layout), run(tried, Layout()), tried, layout)


def test_a_pipeline_stage_may_have_nothing_to_train():
    tried, layout = trial("embedding", "blocks.[01]"), Layout(pipeline=2)
    assert_equal_outcomes(run(tried, layout), run(tried, Layout()), tried, layout)


@pytest.mark.parametrize("distributed", [False, True])
def test_experts_may_learn_alone(distributed):
    """Where no other weight has a gradient Megatron-Core makes an optimizer of nothing beside theirs."""
    dense = ("embedding", "head", "norm", "final_norm", "router", "ssm", "attn")
    tried = replace(trial(*dense), model=mixture(), dtype=torch.float32)
    layout = Layout(data=2, distributed_optimizer=distributed)
    assert_equal_outcomes(run(tried, layout), run(tried, Layout()), tried, layout)
    assert_checkpoint_loads(tried, layout, layout)


STAGES = {
    "float64": (Layout(pipeline=2), Layout(), torch.float64),
    "distributed optimizer": (*[Layout(pipeline=2, distributed_optimizer=True)] * 2, torch.float32),
}


@pytest.mark.parametrize("saved, loaded, dtype", STAGES.values(), ids=STAGES)
def test_such_a_stage_does_not_hide_how_many_steps_the_others_took(saved, loaded, dtype):
    """Adam's first steps differ by their count."""
    assert_checkpoint_loads(replace(trial("embedding", "blocks.[01]"), dtype=dtype), saved, loaded)


def after_a_step(tried: Trial) -> dict:
    """What one step did, alone: how much each weight changed, and what the engine keeps for it."""
    layout = Layout()
    engine = engine_here(tried, layout)
    before = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
    engine.train_step(microbatches_here(tried, layout, 0))
    trained = {name: weight for name, weight in engine.model.named_parameters() if weight.requires_grad}
    norm = torch.stack([weight.main_grad.norm() for weight in trained.values()]).norm().item()
    told = engine.update(tried.optimizer.learning_rate, tried.optimizer.weight_decay)[1]
    (adam,) = [single.optimizer for single in engine.optimizer.chained_optimizers]
    return {
        "changed": {
            name: (weight - before[name]).abs().max().item() for name, weight in engine.model.named_parameters()
        },
        "trained": sum(weight.numel() for weight in trained.values()),
        "gradients": sum(buffer.grad_data.numel() for chunk in engine.chunks for buffer in chunk.buffers),
        "state": sum(state["exp_avg"].numel() for state in adam.state.values()),
        "norms": (told, norm),
    }


def test_what_is_frozen_stays_and_costs_nothing():
    seen = pool(1).run(after_a_step, trial("embedding", "ssm"))[0]
    frozen = {name for name in seen["changed"] if name.startswith("embedding") or ".ssm." in name}
    assert {name for name, change in seen["changed"].items() if change == 0} == frozen
    assert seen["gradients"] == pytest.approx(seen["trained"], abs=64)  # of padding
    assert seen["state"] == seen["trained"]
    assert seen["norms"][0] == pytest.approx(seen["norms"][1], rel=1e-6)


def test_weights_learn_at_their_rates():
    """Adam's first step changes every weight that has a gradient by the learning rate."""
    changed = pool(1).run(after_a_step, trial(groups=SLOW, weight_decay=0.0, clip_norm=0.0))[0]["changed"]
    expected = {"blocks.1.branches.ffn.down": 5e-4, "blocks.0.branches.attn.q": 5e-3, "final_norm.weight": 1e-2}
    expected |= {"embedding.weight": 1e-2, "blocks.0.norm.weight": 1e-3}
    assert {name: changed[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_decay_takes_as_much_at_every_width():
    """An eighth of the learning rate beside eight times the decay."""
    model = MODEL | {"mup_base": 2}
    assert load_model(model).hidden_rate == 1 / 8
    decayed = pool(1).run(decay_of, model)[0]
    assert decayed["blocks.1.branches.ffn.down"] == decayed["embedding.weight"] == pytest.approx(0.01 * 0.1)
    assert decayed["blocks.0.norm.weight"] == 0


def decay_of(model: dict) -> dict[str, float]:
    """Learning rate times weight decay of each weight."""
    tried = Trial(model=model, optimizer=OptimizerOptions(learning_rate=0.01))
    engine = engine_here(tried, Layout())
    engine.train_step(microbatches_here(tried, Layout(), 0))
    engine.update(0.01, 0.1)
    names = {id(weight): name for name, weight in engine.model.named_parameters()}
    return {
        names[id(weight)]: group["lr"] * group["weight_decay"]
        for group in engine.optimizer.param_groups
        for weight in group["params"]
    }


REFUSED = {
    "nothing of that name": (OptimizerOptions(frozen=("layers.atn",)), "optimizer.frozen: .*'layers.attn'"),
    "all": (OptimizerOptions(frozen=("*",)), "leaves nothing to train"),
    "twice": (
        OptimizerOptions(frozen=("embedding",), groups={"a": GroupOptions(parts=("embedding.*",))}),
        r"optimizer.groups.a.parts means embedding.weight, and so does optimizer.frozen",
    ),
}


@pytest.mark.parametrize("options, error", REFUSED.values(), ids=REFUSED)
def test_parts_that_cannot_be(options, error):
    with pytest.raises(ConfigError, match=error):
        check_optimizer(load_model(MODEL), options)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"parts": ["head"], "learning_rate_factor": 0.0}, "must be above 0; list what is not to learn in optimizer.f"),
        ({"parts": ["head"], "weight_decay_factor": -1.0}, "weight_decay_factor=-1.0 must not be negative"),
        ({"parts": []}, r"parts=\[\] means no weights"),
    ],
)
def test_a_group_that_changes_nothing_or_too_much_is_refused(options, error):
    with pytest.raises(ConfigError, match=rf"^optimizer\.groups\.slow\..*{error}"):
        load(OptimizerOptions, {"learning_rate": 1e-3, "groups": {"slow": options}}, "optimizer")
