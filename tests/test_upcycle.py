"""Dense layers that become mixtures of experts: what the mixture computes, where its weights lie, what scaling does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.experiments.upcycle import UpcycleConfig, experts_of, upcycled
from eyas.layers import upcycle
from eyas.layers.model import HybridLM
from eyas.layers.testing import Trial
from eyas.layers.testing.layouts import engine_here, whole_weights
from eyas.parallel import checkpoint, quiet
from eyas.parallel.alone import alone
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

DENSE = {
    "hidden_size": 16,
    "vocab_size": 40,
    "init_std": 0.3,
    "layers": {
        "ssm": {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 4},
        "attn": {"kind": "attention", "num_heads": 4, "head_dim": 4},
        "ffn": {"kind": "mlp", "intermediate_size": 32, "gated": False, "activation": "squared_relu"},
    },
    "pattern": "M-*-",
}
GROUPS = UpcycleConfig(copies=4, granularity=2, top_k=2, score="softmax_of_chosen", balance_loss=0.0)


def dense(**changes) -> dict:
    """The dense model with other options of its MLP."""
    return {**DENSE, "layers": {**DENSE["layers"], "ffn": {**DENSE["layers"]["ffn"], **changes}}}


def saved(model: dict, folder: Path) -> HybridLM:
    """A drawn model, and its checkpoint in the folder `dense`."""
    quiet.install()
    drawn = HybridLM(load_model(model)).double().initialise(3)
    with alone():
        checkpoint.save({"model": checkpoint.sharded_weights(drawn)}, folder / "dense")
    return drawn


def grown(model: dict, config: UpcycleConfig, folder: Path) -> HybridLM:
    """The mixture with the weights of that checkpoint."""
    mixture = HybridLM(load_model(upcycled(model, config))).double()
    with alone():
        upcycle.load(mixture, experts_of(load_model(model), config), folder / "dense", seed=7, router_std=0.3)
    return mixture


def logits(model: HybridLM) -> Tensor:
    tokens_BS = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(tokens_BS)


EXACT = {
    "squared ReLU, a group of two": (dense(), GROUPS),
    "with the law's multipliers": (dense() | {"mup": "falcon_h1"}, GROUPS),
    "eight experts of each copy": (dense(), UpcycleConfig(copies=2, granularity=8, top_k=8, score="softmax_of_chosen")),
    "SwiGLU, whole copies": (
        dense(gated=True, activation="silu") | {"mup": "falcon_h1"},
        UpcycleConfig(copies=4, top_k=2, score="softmax_of_chosen"),
    ),
}


@pytest.mark.parametrize("model, config", EXACT.values(), ids=EXACT)
def test_a_mixture_begins_as_the_dense_model(model, config, tmp_path):
    before, after = saved(model, tmp_path), grown(model, config, tmp_path)
    assert (logits(after) - logits(before)).abs().max() < 1e-10
    assert logits(before).std() > 0.01


def test_without_scaling_it_does_not(tmp_path):
    plain = UpcycleConfig(copies=4, granularity=2, top_k=2, score="softmax_of_chosen", weight_scaling=False)
    before, after = saved(DENSE, tmp_path), grown(DENSE, plain, tmp_path)
    assert (logits(after) - logits(before)).abs().max() > 1e-2


def test_scaling_makes_up_for_what_is_missing():
    """The published example, 8 copies of 8 experts, of which a token has 8 (He et al., 2024, section 3.3)."""
    assert upcycle.weight_scale("silu", True, 8, 8, 8, "softmax") == pytest.approx(4)
    assert upcycle.weight_scale("gelu", False, 8, 1, 2, "softmax") == pytest.approx(2)
    assert upcycle.weight_scale("gelu", False, 8, 4, 8, "softmax_of_chosen") == pytest.approx(2)


def test_experts_and_router_lie_as_published(tmp_path):
    before, after = saved(DENSE, tmp_path), grown(DENSE, GROUPS, tmp_path)
    old, new = before.blocks["1"].branches["ffn"], after.blocks["1"].branches["ffn"]
    scale = 2 ** (1 / 3)
    for expert in range(8):
        shard = slice(expert % 2 * 16, (expert % 2 + 1) * 16)
        assert torch.equal(new.up[expert], old.up[shard] * scale)
        assert torch.equal(new.down[expert], old.down[:, shard] * scale)
        assert torch.equal(new.router[expert], new.router[expert // 2 * 2])
    assert len(new.router.unique(dim=0)) == 4
    assert torch.equal(after.blocks["0"].branches["ssm"].z, before.blocks["0"].branches["ssm"].z)


LAYOUTS = {
    "experts inside a tensor": Layout(tensor=2, sequence=True),
    "experts apart": Layout(data=2, expert=2),
    "pipeline": Layout(pipeline=2),
}


def loaded_here(trial: Trial, layout: Layout, config: UpcycleConfig, path: Path) -> dict[str, Tensor]:
    """One rank's part: the whole weights, once they are loaded."""
    engine = engine_here(trial, layout)
    upcycle.load(engine.model, experts_of(load_model(DENSE), config), path, seed=7, router_std=0.3)
    return whole_weights(engine.model)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_has_the_same_mixture(layout, tmp_path):
    saved(DENSE, tmp_path)
    expected = dict(grown(DENSE, GROUPS, tmp_path).named_parameters())
    trial = Trial(model=upcycled(DENSE, GROUPS))
    whole = pool(layout.processes).run(loaded_here, trial, layout, GROUPS, tmp_path / "dense")[0]
    assert whole.keys() == expected.keys()
    assert all(torch.equal(whole[name], weight) for name, weight in expected.items())


REFUSED = {
    "no MLP": (
        DENSE | {"pattern": "M*", "layers": {k: DENSE["layers"][k] for k in ("ssm", "attn")}},
        GROUPS,
        "no layer",
    ),
    "bias": (dense(bias=True), GROUPS, "bias=true"),
    "width": (dense(intermediate_size=33), GROUPS, "cannot be cut"),
    "layer": (DENSE, UpcycleConfig(copies=2, layers=("fn",)), "'ffn'"),
}


@pytest.mark.parametrize("model, config, error", REFUSED.values(), ids=REFUSED)
def test_what_cannot_become_a_mixture(model, config, error):
    with pytest.raises(ConfigError, match=error):
        upcycled(model, config)


def test_a_part_of_a_copy_is_refused():
    with pytest.raises(ConfigError, match="a multiple of granularity=2"):
        UpcycleConfig(copies=4, granularity=2, top_k=3)


def trained(engine, batches, *, learning_rate: float) -> list[float]:
    """The loss at every step."""
    losses = []
    for batch in batches:
        losses.append(engine.train_step([batch])["loss"])
        engine.update(learning_rate, 0.0)
    return losses


def chain(steps: int, first: int) -> list[dict[str, Tensor]]:
    """Batches of a first-order Markov chain over 40 symbols, each followed by one of three."""
    follows = torch.randint(0, 40, (40, 3), generator=torch.Generator().manual_seed(0))
    batches = []
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        tokens_SB = torch.randint(0, 40, (33, 16), generator=draw)
        for position in range(1, 33):
            choice_B = torch.randint(0, 3, (16,), generator=draw)
            tokens_SB[position] = follows[tokens_SB[position - 1], choice_B]
        batches.append({"tokens": tokens_SB[:-1].t().contiguous(), "labels": tokens_SB[1:].t().contiguous()})
    return batches


def upcycled_losses(model: dict, configs: dict[str, UpcycleConfig], folder: Path) -> dict[str, list[float]]:
    """A dense model is trained; then each of the mixtures that it becomes."""
    options = {"dtype": torch.float32, "sequence_length": 32, "global_batch": 16, "microbatch": 16}
    engine = engine_here(Trial(model=model, **options), Layout())
    dense_losses = trained(engine, chain(120, 0), learning_rate=1e-2)
    checkpoint.save({"model": checkpoint.sharded_weights(engine.model)}, folder / "dense")
    losses = {"dense": dense_losses}
    for name, config in configs.items():
        engine = engine_here(Trial(model=upcycled(model, config), **options), Layout())
        upcycle.load(engine.model, experts_of(load_model(model), config), folder / "dense", seed=7, router_std=0.02)
        losses[name] = trained(engine, chain(60, 120), learning_rate=1e-3)
    return losses


def test_with_scaling_the_loss_is_lower_at_every_step(tmp_path):
    mlp = {"kind": "mlp", "intermediate_size": 64}
    model = {**DENSE, "init_std": 0.1, "layers": {**DENSE["layers"], "ffn": mlp}}
    sizes = {"copies": 4, "granularity": 4, "top_k": 4}
    configs = {name: UpcycleConfig(**sizes, weight_scaling=name == "scaled") for name in ("scaled", "plain")}
    losses = pool(1).run(upcycled_losses, model, configs, tmp_path)[0]
    assert losses["dense"][-1] < 0.7 * losses["dense"][0]
    assert all(scaled < plain for scaled, plain in zip(losses["scaled"], losses["plain"], strict=True))
