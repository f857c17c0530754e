"""What the proof of all layouts draws: any mixers in any order, under any combination of the kinds of parallelism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import prod
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from models import MIXERS

from eyas.core.registry import mixer, mixers
from eyas.layers.testing import STEADY, Trial
from eyas.parallel.layout import Layout

ON_WORKERS = settings(max_examples=min(24, settings().max_examples))
"""For tests whose examples each start a training on workers, which takes a second: not as many as other tests."""
PROCESSES = 8
"""The most that a drawn layout has."""
LENGTH = 16
"""Tokens of a row; every drawn cut divides it."""

SIZES = ("tensor", "pipeline", "context", "data")
"""Kinds of parallelism whose sizes multiply."""
NEEDS = {
    "sequence": "tensor",
    "halved branches": "tensor",
    "interleaved": "pipeline",
    "chosen stages": "pipeline",
    "contiguous": "context",
    "heads exchanged": "context",
    "distributed optimizer": "data",
    "overlap": "data",
    "folded": "expert",
    "all-gathered tokens": "expert",
}
"""An option, and the size that it is about."""
AXES = (*SIZES, "expert", *NEEDS, "recomputed", "chunked loss")
PAIRS = list(combinations(AXES, 2))


def holds(kind: str, trial: Trial, _: Layout) -> bool:
    """Whether the model has mixers of that kind."""
    return any(options["kind"] == kind for options in trial.model["layers"].values())


def active(layout: Layout) -> frozenset[str]:
    """The axes that a layout uses."""
    used = {
        **{size: getattr(layout, size) > 1 for size in (*SIZES, "expert")},
        "sequence": layout.sequence,
        "halved branches": layout.branches != "together",
        "interleaved": layout.virtual_pipeline > 1,
        "chosen stages": layout.stages is not None,
        "contiguous": layout.context_order == "contiguous",
        "heads exchanged": layout.context_exchange == "alltoall",
        "distributed optimizer": layout.distributed_optimizer,
        "overlap": layout.overlap,
        "folded": layout.inside_experts != layout.tensor,
        "all-gathered tokens": layout.dispatcher == "allgather",
        "recomputed": bool(layout.recompute),
        "chunked loss": layout.loss_chunk is not None,
    }
    return frozenset(axis for axis, so in used.items() if so)


OURS = [kind for kind, found in mixers().items() if found.mixer.__module__.startswith("eyas.layers.")]
FEATURES: dict[str, Callable[[Trial, Layout], bool]] = {
    "blocks recomputed": lambda _, layout: layout.recompute == "full",
    "parts recomputed": lambda _, layout: layout.recompute not in ((), "full"),
    "stages by cost": lambda _, layout: layout.stages == "auto",
    "stages listed": lambda _, layout: isinstance(layout.stages, tuple),
    "one half each": lambda _, layout: layout.branches == "halves",
    "halves swapped": lambda _, layout: layout.branches == "swapped",
    "multi-token prediction": lambda trial, _: "/" in trial.model["pattern"],
    "tied embeddings": lambda trial, _: trial.model["tie_embeddings"],
    "dropout": lambda trial, _: trial.model["dropout"] > 0,
    "documents": lambda trial, _: trial.documents,
    "several microbatches": lambda trial, layout: trial.global_batch > trial.microbatch * layout.data,
    **{kind: partial(holds, kind) for kind in OURS},
}
"""Choices within an axis, and what models and data have: each is to be proved beside every axis."""


def beside(trial: Trial, layout: Layout) -> frozenset[str]:
    """What else a drawn case has, of FEATURES."""
    return frozenset(feature for feature, has in FEATURES.items() if has(trial, layout))


@st.composite
def trials(draw: st.DrawFn, wanted: tuple[str, ...]) -> tuple[Trial, Layout]:
    """A short training and a layout that uses at least the wanted axes."""
    axes = {*wanted, *(NEEDS[axis] for axis in wanted if axis in NEEDS)}
    sizes = draw_sizes(draw, axes)
    axes |= {axis for axis in AXES if available(axis, axes, sizes) and draw(st.integers(0, 2)) == 0}
    if "expert" in axes and sizes["tensor"] > 1:
        axes.add("sequence")
    chunks = sizes["pipeline"] * (2 if "interleaved" in axes else 1)
    model = draw_model(draw, axes, chunks)
    layout = Layout(
        **sizes,
        sequence="sequence" in axes,
        branches=draw(st.sampled_from(["halves", "swapped"])) if "halved branches" in axes else "together",
        virtual_pipeline=2 if "interleaved" in axes else 1,
        stages=draw_stages(draw, len(model["pattern"]), chunks) if "chosen stages" in axes else None,
        context_order="contiguous" if "contiguous" in axes else "zigzag",
        context_exchange="alltoall" if "heads exchanged" in axes else "gather",
        distributed_optimizer="distributed optimizer" in axes,
        overlap="overlap" in axes,
        dispatcher="allgather" if "all-gathered tokens" in axes else "alltoall",
        loss_chunk=draw(st.sampled_from([3, 8])) if "chunked loss" in axes else None,
        recompute=draw_recomputed(draw, model) if "recomputed" in axes else (),
        **(draw_experts_grid(draw, sizes, axes=axes) if "expert" in axes else {}),
    )
    model["pattern"] += draw_tail(draw, model)
    return draw_trial(draw, model, layout), layout


def available(axis: str, axes: set[str], sizes: dict[str, int]) -> bool:
    """Whether an option may be added to what is drawn already."""
    if axis == "expert":
        return (sizes["tensor"] > 1 and "sequence" in axes) or sizes["data"] * sizes["context"] > 1
    return axis not in SIZES and (NEEDS.get(axis) in (*axes, None) or sizes.get(NEEDS.get(axis, ""), 1) > 1)


def draw_sizes(draw: st.DrawFn, axes: set[str]) -> dict[str, int]:
    """Sizes whose product is at most PROCESSES."""
    sizes = {size: 2 if size in axes else 1 for size in SIZES}
    if "expert" in axes and prod(sizes.values()) == sizes["pipeline"]:
        sizes[draw(st.sampled_from(["data", "context"]))] = 2
    while prod(sizes.values()) < PROCESSES and draw(st.booleans()):
        size = draw(st.sampled_from(SIZES))
        sizes[size] = min(4, 2 * sizes[size])
    return sizes


def draw_experts_grid(draw: st.DrawFn, sizes: dict[str, int], axes: set[str]) -> dict[str, int]:
    """Sizes of the experts' grid, which divides the processes of a pipeline stage."""
    stage, tensor = prod(sizes.values()) // sizes["pipeline"], sizes["tensor"]
    grids = [(e, t) for e in (1, 2, 4) for t in (1, 2, 4) if stage % (e * t) == 0 and (e > 1 or t != tensor)]
    if "all-gathered tokens" in axes:
        grids = [grid for grid in grids if grid != (1, 1)]
    fitting = [(e, t) for e, t in grids if (t != tensor) == ("folded" in axes)] or grids
    expert, inside = draw(st.sampled_from(fitting))
    return {"expert": expert, "expert_tensor": inside}


def draw_stages(draw: st.DrawFn, blocks: int, stages: int) -> tuple[int, ...] | str:
    """Blocks of each stage, or `auto`."""
    if draw(st.booleans()):
        return "auto"
    ends = sorted(draw(st.sets(st.integers(1, blocks - 1), min_size=stages - 1, max_size=stages - 1)))
    return tuple(end - start for start, end in zip([0, *ends], [*ends, blocks], strict=True))


def draw_recomputed(draw: st.DrawFn, model: dict[str, Any]) -> tuple[str, ...] | str:
    """Whole blocks, or parts that the model has."""
    kinds = {options["kind"] for options in model["layers"].values()}
    roles = sorted({mixer(kind).mixer.Config.role for kind in kinds} | {"norm"})
    return draw(st.sampled_from(["full", *[(role,) for role in roles], tuple(roles)]))


EXCHANGING = ("attn", "ssm", "mla", "gated_delta_net", "linear_attention")
"""Layers that exchange tokens for heads."""
HALVED = ("attn", "ssm", "gated_delta_net", "linear_attention")
"""Layers that may lie on half of the ranks: those without a bias behind the sum."""


def draw_model(draw: st.DrawFn, axes: set[str], stages: int) -> dict[str, Any]:
    """A model of at least `stages` blocks that the axes can do something with."""
    groups, kv_heads = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    layers = {
        "attn": {
            "kind": "attention", "num_heads": 8, "num_kv_heads": kv_heads, "head_dim": 4,
            "window": draw(st.sampled_from([None, 5])), "qk_norm": draw(st.booleans()),
        },
        "ssm": {
            "kind": "mamba2", "num_heads": 8, "head_dim": 4, "state_size": 5, "num_groups": groups,
            "gated_norm": draw(st.booleans()), "chunk_size": 4,
        },
        "ffn": {"kind": "mlp", "intermediate_size": 24, "bias": True},
        **MIXERS,
        **{name: MIXERS[name] | {"num_heads": 8} for name in EXCHANGING if name in MIXERS},
    }  # fmt: skip
    if "expert" in axes:
        layers["moe"] = draw_mixture(draw)
    names = st.sampled_from([name for name in layers if name != "moe"])
    blocks = [[draw(names)] for _ in range(draw(st.integers(max(2, stages), max(3, stages + 1))))]
    for block in blocks:
        if draw(st.booleans()):
            halved = "halved branches" in axes
            block[:] = draw(st.lists(st.sampled_from(HALVED) if halved else names, min_size=2, max_size=2, unique=True))
    if "heads exchanged" in axes:
        blocks[0] = [draw(st.sampled_from(EXCHANGING))]
    if "halved branches" in axes:
        blocks[0] = ["attn", "ssm"]
    if "expert" in axes:
        blocks[-1] = ["moe"]
    used = {name for block in blocks for name in block}
    return {
        "hidden_size": 16,
        "vocab_size": draw(st.sampled_from([48, 51])),
        "tie_embeddings": draw(st.booleans()),
        "init_std": 0.1,
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.2])),
        "pattern": ["+".join(block) for block in blocks],
        "layers": {name: layers[name] for name in layers if name in used},
    }


def draw_mixture(draw: st.DrawFn) -> dict[str, Any]:
    """Experts by one of the balancing rules, some in a latent width."""
    experts = {
        "kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8,
        "shared_size": draw(st.sampled_from([None, 8])), "latent_size": draw(st.sampled_from([None, 8])),
    }  # fmt: skip
    by_bias = {"score": "sigmoid", "selection_bias_rate": 0.05, "sequence_balance_loss": 0.1}
    return experts | draw(st.sampled_from([by_bias, {"score": "softmax", "balance_loss": 0.1, "z_loss": 0.01}, {}]))


def draw_tail(draw: st.DrawFn, model: dict[str, Any]) -> list[str]:
    """Up to two depths of multi-token prediction."""
    depth = ["/", draw(st.sampled_from([item for item in model["pattern"] if item != "moe"]))]
    return depth * draw(st.sampled_from([0, 0, 1, 2]))


def draw_trial(draw: st.DrawFn, model: dict[str, Any], layout: Layout) -> Trial:
    """Data and optimizer."""
    microbatch, turns = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 3]))
    microbatches = layout.pipeline * min(2, turns) if layout.virtual_pipeline > 1 else turns
    return Trial(
        model=model,
        global_batch=layout.data * microbatch * microbatches,
        microbatch=microbatch,
        sequence_length=LENGTH,
        documents=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
        optimizer=replace(STEADY, clip_norm=draw(st.sampled_from([0.0, 0.1]))),
    )
