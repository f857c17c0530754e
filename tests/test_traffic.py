"""One pair of collectives a block, whatever the number of its branches."""
# S sequence, s this rank's part of it, B batch, D hidden

from pathlib import Path

import pytest
import torch
from models import falcon_h1, mixture

from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

S, B, D = 16, 2, 16
WHOLE = S * B * D * 8
"""Bytes of (S, B, D) in float64."""


def first_block(model, layout):
    """This rank's first block, as a function without arguments that computes its output (s, B, D)."""
    from eyas.core.model import load_model
    from eyas.layers.rank_model import stages_here
    from eyas.parallel import groups

    groups.initialise(layout)
    (lm,) = stages_here(load_model(model), layout, torch.float64, 0, S)
    shape, generator = (S // (layout.tensor if layout.sequence else 1), B, D), torch.Generator().manual_seed(0)
    h_sBD = torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
    return lambda: lm.placed_blocks()[0].output(h_sBD, lm.context)


def block_traffic(model, layout):
    """Kinds and bytes of what this rank's first block communicates, forward and backward."""
    from eyas.parallel.traffic import Traffic

    block = first_block(model, layout)
    with Traffic() as forward:
        y_sBD = block()
    with Traffic() as backward:
        y_sBD.sum().backward()
    return [(part.counts, {call.bytes for call in part.calls}, part.sent) for part in (forward, backward)]


def measured(model, layout):
    return pool(layout.processes).run(block_traffic, model, layout)[0]


def with_pattern(pattern):
    """A Falcon-H1 whose norm groups are each on one rank."""
    return falcon_h1(groups=2, repeat=1) | {"pattern": [pattern]}


@pytest.mark.parametrize("branches", ["ssm+attn", "ssm", "attn", "ssm+attn+ffn", "ffn"])
def test_split_sequences_cost_a_gather_and_a_scatter_and_backward_one_gather_more(branches):
    forward, backward = measured(with_pattern(branches), Layout(tensor=2, sequence=True))
    assert forward == ({"all_gather": 1, "reduce_scatter": 1}, {WHOLE}, WHOLE)
    assert backward == ({"all_gather": 2, "reduce_scatter": 1}, {WHOLE}, 1.5 * WHOLE)


def backward_order(model, layout):
    """Collectives and products of matrices of this rank's first block in its backward pass, one after another."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Order(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            done.append(function.name().split("::")[-1].split(".")[0])
            return function(*args, **(kwargs or {}))

    y_sBD = first_block(model, layout)()
    done: list[str] = []
    with Order():
        y_sBD.sum().backward()
    return [name for name in done if name in ("_allgather_base_", "_reduce_scatter_base_", "mm", "bmm", "addmm")]


@pytest.mark.parametrize("branches", ["ssm+attn", "ffn"])
def test_the_backward_pass_begins_to_gather_before_its_products(branches):
    """Both gatherings are begun before any matrix product, which the second, not awaited, goes on beside."""
    order = pool(2).run(backward_order, with_pattern(branches), Layout(tensor=2, sequence=True))[0]
    assert order[:2] == ["_allgather_base_", "_allgather_base_"]
    assert {"mm", "bmm", "addmm"} & set(order[2:-1]) and order[-1] == "_reduce_scatter_base_"


@pytest.mark.parametrize("branches", ["ssm+attn", "ssm+attn+ffn", "ffn"])
def test_whole_sequences_cost_one_sum_each_way(branches):
    forward, backward = measured(with_pattern(branches), Layout(tensor=2))
    assert forward == backward == ({"all_reduce": 1}, {WHOLE}, WHOLE)


def test_a_norm_over_heads_of_several_ranks_costs_a_small_sum_each_way():
    forward, backward = measured(falcon_h1(groups=1), Layout(tensor=2, sequence=True))
    assert forward[0] == {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 1}
    assert backward[0] == {"all_gather": 2, "reduce_scatter": 1, "all_reduce": 1}
    assert forward[1] == backward[1] == {WHOLE, WHOLE // D}


@pytest.mark.parametrize("recompute", [("ssm",), ("attention", "ssm"), ("norm",), "full"], ids=str)
def test_recomputing_gathers_no_more_often(recompute):
    """A whole block's second pass gathers what else is gathered again, and stops before it scatters."""
    forward, backward = measured(with_pattern("ssm+attn"), Layout(tensor=2, sequence=True, recompute=recompute))
    assert forward[0] == {"all_gather": 1, "reduce_scatter": 1}
    assert backward[0] == {"all_gather": 2, "reduce_scatter": 1}


def test_experts_in_a_latent_width_are_sent_tokens_of_that_width():
    """The router is the same, and sends the same tokens."""
    layout = Layout(data=2, expert=2)
    wide, latent = (measured(mixture(latent_size=size) | {"pattern": ["moe"]}, layout) for size in (None, D // 2))
    for narrow, full in zip(latent, wide, strict=True):
        assert narrow[0] == full[0] and full[0]["all_to_all"] > 0
        assert 2 * max(narrow[1]) == max(full[1])


def megatron_traffic(layout):
    """The same of two Megatron-Core mixers side by side: each is a column-parallel and a row-parallel projection with
    collectives of its own, as are SelfAttention and MambaMixer."""
    from unittest.mock import patch

    from eyas.parallel import groups
    from eyas.parallel.cpu_torch import CpuTorch
    from eyas.parallel.megatron_options import megatron_config
    from eyas.parallel.traffic import Traffic

    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, layers  # isort: skip

    groups.initialise(layout)
    config = megatron_config(layout, D, torch.float64)
    options = {"config": config, "init_method": torch.nn.init.ones_, "bias": False}
    into = [ColumnParallelLinear(D, 2 * D, gather_output=False, **options) for _ in range(2)]
    out = [RowParallelLinear(2 * D, D, input_is_parallel=True, skip_bias_add=True, **options) for _ in range(2)]
    h_sBD = torch.randn(S // layout.tensor, B, D, dtype=torch.float64, requires_grad=True)
    with Traffic() as forward:
        y_sBD = sum(second(first(h_sBD)[0])[0] for first, second in zip(into, out, strict=True))
    with Traffic() as backward, patch.object(layers, "torch", CpuTorch()):
        y_sBD.sum().backward()
    return [(part.counts, {call.bytes for call in part.calls}, part.sent) for part in (forward, backward)]


def test_megatrons_mixers_side_by_side_cost_two_pairs():
    forward, backward = pool(2).run(megatron_traffic, Layout(tensor=2, sequence=True))[0]
    assert forward == ({"all_gather": 2, "reduce_scatter": 2}, {WHOLE}, 2 * WHOLE)
    assert backward == ({"all_gather": 4, "reduce_scatter": 2}, {WHOLE}, 3 * WHOLE)


def cell(counts):
    """Collectives in words."""
    names = ((kind.replace("_", "-"), number) for kind, number in counts.items())
    return ", ".join(f"{number} {name}{'s' * (number > 1)}" for name, number in names)


def test_the_guides_table_is_what_is_measured():
    mixers, split, whole = with_pattern("ssm+attn"), Layout(tensor=2, sequence=True), Layout(tensor=2)
    rows = {
        "Eyas, sequences split": measured(mixers, split),
        "two Megatron-Core mixers, sequences split": pool(2).run(megatron_traffic, split)[0],
        "Eyas, sequences whole": measured(mixers, whole),
    }
    guide = Path(__file__).parents[1].joinpath("docs", "layouts.md").read_text(encoding="utf-8")
    for name, (forward, backward) in rows.items():
        sent = (forward[2] + backward[2]) / WHOLE
        assert f"| {name} | {cell(forward[0])} | {cell(backward[0])} | {sent:g} |" in guide.splitlines()
