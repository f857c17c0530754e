"""The mixture of experts against transformers', and against its own rules."""
# S sequence, B batch, E experts

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DeepseekV3Config, MixtralConfig, NemotronHConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from eyas.core.errors import ConfigError, LayoutError
from eyas.core.model import load_layer
from eyas.core.registry import mixer
from eyas.layers.experts import grouped_linear
from eyas.layers.testing.case import output
from eyas.layers.testing.compare import gradients
from eyas.layers.testing.costs import bytes_kept
from eyas.parallel.context import Context

seeds = st.integers(0, 999)
SIGMOID = {"score": "sigmoid", "selection_bias_rate": 1e-3}


@st.composite
def cases(draw):
    """A module of transformers, and our options for the same."""
    experts, size = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 12]))
    top_k, hidden = draw(st.sampled_from([2, 4])), mixers.HIDDEN
    ours = {"kind": "moe", "num_experts": experts, "top_k": top_k, "intermediate_size": size}
    theirs = {"hidden_size": hidden, "num_experts_per_tok": top_k, "moe_intermediate_size": size}
    family = draw(st.sampled_from(["mixtral", "qwen2", "qwen3", "deepseek", "nemotron"]))
    if family == "mixtral":
        config = MixtralConfig(
            hidden_size=hidden, num_experts_per_tok=top_k, num_local_experts=experts, intermediate_size=size
        )
        return MixtralSparseMoeBlock(config), ours
    if family in ("qwen2", "qwen3"):
        norm = draw(st.booleans())
        ours["score"] = "softmax_of_chosen" if norm else "softmax"
        theirs |= {"num_experts": experts, "norm_topk_prob": norm}
        if family == "qwen3":
            return Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**theirs)), ours
        ours |= {"shared_size": 8, "shared_output_gate": True}
        return Qwen2MoeSparseMoeBlock(Qwen2MoeConfig(**theirs, shared_expert_intermediate_size=8)), ours
    scaling, groups = draw(st.sampled_from([1.0, 2.5])), draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    theirs |= {"n_routed_experts": experts, "routed_scaling_factor": scaling, "norm_topk_prob": True}
    if groups != (1, 1):
        top_k = ours["top_k"] = theirs["num_experts_per_tok"] = 2 * groups[1]
        ours |= {"num_groups": groups[0], "top_groups": groups[1]}
    theirs |= {"n_group": groups[0], "topk_group": groups[1]}
    ours |= {**SIGMOID, "scaling_factor": scaling}
    if family == "deepseek":
        shared = draw(st.sampled_from([1, 2]))
        return DeepseekV3MoE(DeepseekV3Config(**theirs, n_shared_experts=shared)), ours | {"shared_size": shared * size}
    latent = draw(st.sampled_from([None, 5]))
    ours |= {"gated": False, "activation": "squared_relu", "shared_size": 8, "latent_size": latent}
    config = NemotronHConfig(
        **theirs, moe_latent_size=latent, moe_shared_expert_intermediate_size=8, mlp_hidden_act="relu2"
    )
    return NemotronHMoE(config), ours


NAMES = {
    "gate.weight": "router", "gate.e_score_correction_bias": "selection_bias", "experts.up_proj": "up",
    "experts.down_proj": "down", "fc1_latent_proj.weight": "latent_down", "fc2_latent_proj.weight": "latent_up",
    "shared_expert_gate.weight": "shared_output_gate",
}  # fmt: skip


def renamed(theirs):
    """Tensors of transformers' module by our names."""
    ours = {}
    for name, tensor in theirs.items():
        if name == "experts.gate_up_proj":
            ours["gate"], ours["up"] = tensor.chunk(2, 1)
        elif name.startswith("shared_expert") and "_proj" in name:
            ours["shared_" + name.split(".")[1].removesuffix("_proj")] = tensor
        else:
            ours[NAMES[name]] = tensor
    return ours


@given(case=cases(), seed=seeds)
def test_output_and_gradients_equal_transformers(case, seed):
    theirs, options = case
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*theirs.parameters(), *theirs.buffers()):
            tensor.normal_(0, 0.5, generator=generator)
    ours = mixer("moe").mixer(load_layer(options, "layer"), mixers.HIDDEN, mixers.alone().place)
    ours.load_state_dict(renamed(theirs.state_dict()))
    x = mixers.noise(6, 2, mixers.HIDDEN, seed=seed, dtype=torch.float32).requires_grad_()
    expected, actual = theirs(x), output(ours, x, mixers.alone())
    weight = mixers.noise(*expected.shape, seed=seed + 1, dtype=torch.float32)
    wanted = dict(
        zip(
            ["x", *(name for name, _ in theirs.named_parameters())],
            torch.autograd.grad((expected * weight).sum(), [x, *theirs.parameters()]),
            strict=True,
        )
    )
    dx = wanted.pop("x")
    wanted = {"x": dx, **renamed(wanted)}
    found = gradients((actual * weight).sum(), ours, x)
    found["x"] = found.pop("input 0")
    assert found.keys() == wanted.keys()
    for name, mine, other in [("y", actual, expected), *((name, found[name], wanted[name]) for name in wanted)]:
        difference = (mine - other).abs().max()
        assert difference <= 1e-5 * other.abs().max(), f"{name}: {difference}"


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=seeds,
)
def test_the_grouped_product_equals_the_loop(counts, dtype, seed):
    weight = mixers.noise(len(counts), 16, 8, seed=seed, dtype=dtype).requires_grad_()
    x = mixers.noise(sum(counts), 8, seed=seed + 1, dtype=dtype).requires_grad_()
    dy = mixers.noise(sum(counts), 16, seed=seed + 2, dtype=dtype)
    results = []
    for kernel in ("grouped", "loop"):
        y = grouped_linear(x, counts, weight, kernel)
        results.append([y, *torch.autograd.grad(y, [x, weight], dy)])
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for grouped, looped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, looped, rtol=tolerance, atol=tolerance)


def test_a_grouped_product_that_cannot_be_had_is_refused():
    with pytest.raises(ConfigError, match="use kernel=loop"):
        grouped_linear(torch.zeros(2, 3), [2], torch.zeros(1, 4, 3), "grouped")
    with pytest.raises(ConfigError, match="use kernel=loop"):
        grouped_linear(torch.zeros(2, 4).double(), [2], torch.zeros(1, 4, 4).double(), "grouped")


@given(options=mixers.moe(), seed=seeds)
def test_weighing_before_or_after_the_last_projection_is_the_same(options, seed):
    x = mixers.noise(5, 2, mixers.HIDDEN, seed=seed).requires_grad_()
    before, after = (mixers.build(options | {"weigh_inside": inside}, seed=seed) for inside in (True, False))
    expected = output(after, x, mixers.alone())
    torch.testing.assert_close(output(before, x, mixers.alone()), expected, rtol=1e-10, atol=1e-10)
    found = [gradients(output(module, x, mixers.alone()).square().sum(), module, x) for module in (before, after)]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-9, atol=1e-9)


@given(options=mixers.moe(), dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_auxiliary_losses_keep_what_activation_bytes_state(options, dtype):
    module = mixers.build(options, dtype=dtype)
    x = mixers.noise(32, 3, mixers.HIDDEN, dtype=dtype).requires_grad_()
    known = [x, *module.parameters(), *module.buffers()]
    kept = bytes_kept(lambda: output(module, x, mixers.alone()), known)
    assert module.config.activation_bytes(mixers.HIDDEN, 32, 3, dtype.itemsize) == kept


@given(
    score=st.sampled_from(["softmax", "sigmoid"]), top_k=st.integers(1, 3), balance=st.sampled_from([0.0, 0.3]),
    sequence=st.sampled_from([0.0, 0.7]), z=st.sampled_from([0.0, 0.2]), seed=seeds,
)  # fmt: skip
def test_the_auxiliary_losses_are_those_of_their_definitions(score, top_k, balance, sequence, z, seed):
    """Times the tokens, since the step divides by them; Megatron-Core's softmax is in float32."""
    S, B, E = 5, 3, 4
    logits = mixers.noise(S, B, E, seed=seed).requires_grad_()
    options = {"kind": "moe", "num_experts": E, "top_k": top_k, "intermediate_size": 4, "score": score}
    losses = {"balance_loss": balance, "sequence_balance_loss": sequence, "z_loss": z}
    routed = mixers.alone().route(logits, load_layer(options | losses, "layer").rule, None)
    (found,) = torch.autograd.grad(0.0 * routed.weights_TE.sum(), logits)

    shares = logits.softmax(-1) if score == "softmax" else logits.sigmoid() / logits.sigmoid().sum(-1, keepdim=True)
    chosen = torch.zeros_like(shares).scatter(-1, shares.topk(top_k, -1).indices, 1.0)
    whole = E / (top_k * (S * B) ** 2) * (shares.sum((0, 1)) * chosen.sum((0, 1))).sum()
    each = (E / (top_k * S**2) * (shares.sum(0) * chosen.sum(0)).sum(-1)).mean()
    loss = balance * whole + sequence * each + z * logits.logsumexp(-1).square().mean()
    (expected,) = torch.autograd.grad(S * B * loss, logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@given(top_k=st.integers(1, 3), factor=st.sampled_from([0.3, 0.5, 1.0]), seed=seeds)
def test_a_full_expert_keeps_the_first_or_the_heaviest(top_k, factor, seed):
    logits = mixers.noise(10, 2, 4, seed=seed)
    options = {"kind": "moe", "num_experts": 4, "top_k": top_k, "intermediate_size": 4, "score": "softmax"}
    unlimited, *_ = mixers.alone().route(logits, load_layer(options, "layer").rule, None)
    for policy in ("position", "probability"):
        rule = load_layer(options | {"capacity_factor": factor, "drop_policy": policy}, "layer").rule
        weights, chosen, wanted = mixers.alone().route(logits, rule, None)
        capacity = -(-20 * top_k * factor // 4)
        assert not (chosen & ~wanted).any() and not weights[~chosen].any()
        for expert in range(4):
            asked = wanted[:, expert].nonzero().squeeze(1)
            kept = chosen[:, expert].nonzero().squeeze(1)
            assert len(kept) == min(len(asked), capacity)
            if policy == "position":
                assert kept.tolist() == asked[: len(kept)].tolist()
            elif len(kept) < len(asked):
                dropped = wanted[:, expert] & ~chosen[:, expert]
                assert unlimited[kept, expert].min() >= unlimited[dropped, expert].max()


@pytest.mark.parametrize("shared_size", [None, 4])
def test_a_capacity_refuses_packed_documents(shared_size):
    module = mixers.build(
        {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 4, "capacity_factor": 1.0,
         "shared_size": shared_size}
    )  # fmt: skip
    with pytest.raises(ConfigError, match="moe cannot keep packed documents apart"):
        output(module, mixers.noise(5, 2, mixers.HIDDEN), mixers.alone(mixers.documents(5, 2)))


def test_ranks_that_all_hold_all_tokens_are_refused():
    module = mixers.build({"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 4}, tensor=2)
    with pytest.raises(LayoutError, match="layout.tensor=2 needs layout.sequence=true"):
        module.on_own_tokens(mixers.noise(5, 2, mixers.HIDDEN), Context(module.place))


def test_latent_experts_cost_what_as_many_wide_ones_do():
    """A quarter of the width, four times the experts and four times the choices: Nemotron 3's identities."""
    hidden, fold = 64, 4
    wide = {"kind": "moe", "num_experts": 8, "top_k": 2, "intermediate_size": 32, "gated": False}
    latent = wide | {"num_experts": 8 * fold, "top_k": 2 * fold, "latent_size": hidden // fold}
    modules = [mixers.build(options, hidden_size=hidden) for options in (wide, latent)]
    weights = [sum(getattr(module, name).numel() for name in ("up", "down")) for module in modules]
    assert weights[0] == weights[1]
    x, context = mixers.noise(16, 2, hidden), mixers.alone()
    sent, flops = [], []
    for module in modules:
        rule = module.config.rule
        routed = context.route(mixers.noise(16, 2, rule.num_experts), rule, None)
        inner = x if module.config.latent_size is None else x @ module.latent_down.t()
        sent.append(context.dispatch(inner, routed, rule).tokens.numel())
        projections = 2.0 * hidden * rule.num_experts + 4.0 * hidden * (module.config.latent_size or 0)
        flops.append(module.config.flops(hidden, 16) - projections)
    assert sent[0] == sent[1]
    assert flops[0] == flops[1] > 0


@pytest.mark.parametrize("rate", [None, 5e-3])
def test_the_selection_bias_evens_out_a_skewed_load(rate):
    """Eight experts, two each, tokens around one direction: with the bias the greatest excess falls below a fifth,
    without it some expert sees less than a tenth of its share."""
    module = mixers.build(
        {"kind": "moe", "num_experts": 8, "top_k": 2, "intermediate_size": 4, "score": "sigmoid",
         "selection_bias_rate": rate}
    )  # fmt: skip
    direction = mixers.noise(1, 1, mixers.HIDDEN, seed=5)
    for step in range(300):
        module.on_own_tokens(direction + 0.7 * mixers.noise(64, 16, mixers.HIDDEN, seed=step), mixers.alone())
        figures = module.after_batch(lambda value: value)
    if rate is None:
        assert figures["load"].min() < 0.1
    else:
        assert figures["max_violation"] < 0.2
    assert figures["load"].mean().item() == pytest.approx(1)
    assert figures["dropped"] == 0
    assert 0 < figures["entropy"] < torch.tensor(8.0).log()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_policy": "position"}, "drop_policy=position drops nothing without a capacity"),
        ({"top_k": 1}, "top_k=1 is always one"),
        ({"top_k": 5}, "top_k=5 must be between 1 and num_experts=4"),
        ({"selection_bias_rate": 1e-3}, "selection_bias_rate=0.001 needs score=sigmoid"),
        ({"shared_output_gate": True}, "shared_output_gate=true needs a shared expert"),
        ({"num_groups": 2}, "num_groups and top_groups go together"),
        ({"num_groups": 3, "top_groups": 1}, "num_groups=3 must divide num_experts=4"),
        ({"capacity_factor": 0.0}, "capacity_factor=0.0 must be above 0"),
        ({"latent_size": 0}, "latent_size=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_layer({"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 4} | options, "layer")
