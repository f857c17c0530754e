"""Mixers that tests draw: options, modules with weights away from their start, contexts of one process; and what the
conformance kit has for them."""

import math
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from eyas.core.model import load_layer
from eyas.layers.rotary import rotation
from eyas.layers.testing import case
from eyas.layers.testing.case import decode, documents, noise, rows_of_documents  # noqa: F401
from eyas.layers.testing.compare import assert_equal_results  # noqa: F401
from eyas.layers.testing.costs import bytes_kept, tensors  # noqa: F401
from eyas.parallel.context import Context

HIDDEN = 12
scales = st.sampled_from([None, 0.5, 1.75])
scalings = st.sampled_from([
    None,
    {"rule": "llama3", "factor": 4.0, "original_length": 16},
    {"rule": "yarn", "factor": 4.0, "original_length": 16, "fast_turns": 4.0, "mscale": 0.7, "mscale_all_dim": 1.5},
])  # fmt: skip


@st.composite
def attention(draw, **fixed):
    """Options of attention, grouped or not, with any of its features."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    head_dim, rope_base = draw(st.sampled_from([2, 4, 6])), draw(st.sampled_from([None, 10.0, 1e11]))
    drawn = {
        "kind": "attention",
        "num_heads": kv_heads * draw(st.sampled_from([1, 2, 3])),
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "rope_base": rope_base,
        "rope_scaling": None if rope_base is None else draw(scalings),
        "rotary_dim": None if rope_base is None else draw(st.sampled_from([None, 2, head_dim])),
        "window": draw(st.sampled_from([None, 1, 3, 8])),
        "sink_tokens": draw(st.sampled_from([None, 0, 2])),
        "qk_norm": draw(st.booleans()),
        "softmax_scale": draw(st.sampled_from([None, 0.3])),
        "sinks": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "input_multiplier": draw(scales),
        "key_multiplier": draw(scales),
        "output_multiplier": draw(scales),
    }
    return drawn | fixed


@st.composite
def mla(draw, **fixed):
    """Options of multi-head latent attention, all of them."""
    drawn = {
        "kind": "mla",
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "kv_lora_rank": draw(st.sampled_from([1, 5, 8])),
        "q_lora_rank": draw(st.sampled_from([None, 1, 6])),
        "qk_nope_head_dim": draw(st.sampled_from([1, 2, 4])),
        "qk_rope_head_dim": draw(st.sampled_from([2, 4])),
        "v_head_dim": draw(st.sampled_from([3, 4, 6, 9])),
        "rope_base": draw(st.sampled_from([10.0, 1e4])),
        "rope_scaling": draw(scalings),
        "rope_interleave": draw(st.booleans()),
        "softmax_scale": draw(st.sampled_from([None, 0.3])),
        "down_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }
    return drawn | fixed


@st.composite
def mamba1(draw, **fixed):
    """Options of Mamba, all of them."""
    drawn = {
        "kind": "mamba1",
        "inner_size": draw(st.sampled_from([1, 4, 8])),
        "dt_rank": draw(st.sampled_from([1, 3])),
        "state_size": draw(st.sampled_from([1, 4, 5])),
        "conv_kernel": draw(st.sampled_from([1, 2, 4])),
        "conv_bias": draw(st.booleans()),
        "inner_norms": draw(st.booleans()),
        "projection_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "time_step_min": 0.1,
        "time_step_max": 2.0,
        "chunk_size": draw(st.sampled_from([None, 4])),
    }
    return drawn | fixed


@st.composite
def mamba2(draw, **fixed):
    """Options of Mamba-2, all of them."""
    groups = draw(st.sampled_from([1, 2]))
    drawn = {
        "kind": "mamba2",
        "num_heads": groups * draw(st.sampled_from([1, 2, 4])),
        "head_dim": draw(st.sampled_from([1, 3, 4])),
        "state_size": draw(st.sampled_from([1, 4, 5])),
        "num_groups": groups,
        "conv_kernel": draw(st.sampled_from([1, 2, 4])),
        "conv_bias": draw(st.booleans()),
        "gated_norm": draw(st.booleans()),
        "norm_before_gate": draw(st.booleans()),
        "projection_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "time_step_limit": draw(st.sampled_from([[0.0, math.inf], [0.2, 0.9]])),
        "time_step_min": 0.1,
        "time_step_max": 2.0,
        "chunk_size": draw(st.sampled_from([None, 4])),
        "input_multiplier": draw(scales),
        "multipliers": draw(st.sampled_from([None, [0.5, 1.5, 0.75, 1.25, 2.0]])),
        "output_multiplier": draw(scales),
    }
    return drawn | fixed


@st.composite
def gated_delta_net(draw, **fixed):
    """Options of Gated DeltaNet, all of them."""
    key_heads = draw(st.sampled_from([1, 2]))
    drawn = {
        "kind": "gated_delta_net",
        "num_heads": key_heads * draw(st.sampled_from([1, 2, 4])),
        "num_key_heads": key_heads,
        "key_head_dim": draw(st.sampled_from([1, 3, 4])),
        "value_head_dim": draw(st.sampled_from([1, 3, 5])),
        "conv_kernel": draw(st.sampled_from([1, 2, 4])),
        "chunk_size": draw(st.sampled_from([None, 4])),
    }
    return drawn | fixed


@st.composite
def linear_attention(draw, **fixed):
    """Options of linear attention, all of them."""
    drawn = {
        "kind": "linear_attention",
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "head_dim": draw(st.sampled_from([1, 3, 4])),
        "decay": draw(st.sampled_from(["lightning", "retention"])),
        "decay_scale": draw(st.sampled_from([1e-5, 0.5, 1.0])),
        "activation": draw(st.sampled_from(["silu", "none"])),
        "gate": draw(st.sampled_from(["sigmoid", "silu"])),
        "norm_per_head": draw(st.booleans()),
        "chunk_size": draw(st.sampled_from([None, 4])),
    }
    return drawn | fixed


@st.composite
def mlp(draw, **fixed):
    """Options of the feed-forward layer."""
    drawn = {
        "kind": "mlp",
        "intermediate_size": draw(st.sampled_from([4, 12, 20])),
        "gated": draw(st.booleans()),
        "activation": draw(st.sampled_from(["silu", "gelu", "squared_relu"])),
        "bias": draw(st.booleans()),
        "gate_multiplier": draw(scales),
        "down_multiplier": draw(scales),
    }
    return drawn | fixed


@st.composite
def moe(draw, **fixed):
    """Options of a mixture without a capacity."""
    experts = draw(st.sampled_from([2, 4, 6]))
    drawn = {
        "kind": "moe", "num_experts": experts, "top_k": draw(st.integers(1, 2)),
        "intermediate_size": draw(st.sampled_from([4, 8])), "gated": draw(st.booleans()),
        "activation": draw(st.sampled_from(["silu", "gelu", "squared_relu"])),
        "shared_size": draw(st.sampled_from([None, 4])), "latent_size": draw(st.sampled_from([None, 8])),
        "output_multiplier": draw(scales), "weigh_inside": draw(st.booleans()),
        "balance_loss": draw(st.sampled_from([0.0, 0.3])), "z_loss": draw(st.sampled_from([0.0, 0.1])),
        "sequence_balance_loss": draw(st.sampled_from([0.0, 0.3])),
    }  # fmt: skip
    balanced = {"score": "sigmoid", "selection_bias_rate": 1e-3}
    drawn |= draw(
        st.sampled_from([{"score": "softmax"}, {"score": "softmax_of_chosen"}, {"score": "sigmoid"}, balanced])
    )
    if drawn["score"] == "softmax_of_chosen":
        drawn["top_k"] = 2
    drawn["shared_output_gate"] = drawn["shared_size"] is not None and draw(st.booleans())
    return drawn | fixed


def anything():
    """Options of any mixer."""
    return st.one_of(attention(), mla(), gated_delta_net(), linear_attention(), mamba1(), mamba2(), mlp())


def build(options, *, hidden_size=HIDDEN, **place):
    """A mixer, or one rank's part of it, with weights that depend on the seed alone; none is zero, one or tiny."""
    return case.build(load_layer(options, "layer"), hidden_size, **place)


def alone(documents_SB=None):
    """What a mixer is told where one process holds everything."""
    return Context(documents_SB=documents_SB)


def one_of_several():
    """What a mixer is told on a rank whose norm groups are its own."""
    return SimpleNamespace(
        documents_SB=None,
        pieces=None,
        sum_over_copies=lambda partial, weight: partial,
        sum_over_ranks=lambda partial: partial,
    )


def rotary_tables(spec, length, dtype):
    """What all attention layers of a model share."""
    wide = torch.promote_types(dtype, torch.float32)
    return [
        table
        for layer in spec.layers.values()
        if getattr(layer, "rope_base", None) is not None
        for table in rotation(0, length, layer.rotated, layer.rope_base, wide, torch.device("cpu"), layer.rope_scaling)
    ]
