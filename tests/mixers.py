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


@st.composite
def attention(draw, **fixed):
    """Options of attention, grouped or not, with any of its features."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    drawn = {
        "kind": "attention",
        "num_heads": kv_heads * draw(st.sampled_from([1, 2, 3])),
        "num_kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from([2, 4, 6])),
        "rope_base": draw(st.sampled_from([None, 10.0, 1e11])),
        "window": draw(st.sampled_from([None, 1, 3, 8])),
        "qk_norm": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "input_multiplier": draw(scales),
        "key_multiplier": draw(scales),
        "output_multiplier": draw(scales),
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


def anything():
    """Options of any mixer."""
    return st.one_of(attention(), mamba2(), mlp())


def build(options, *, hidden_size=HIDDEN, **place):
    """A mixer, or one rank's part of it, with weights that depend on the seed alone; none is zero, one or tiny."""
    return case.build(load_layer(options, "layer"), hidden_size, **place)


def alone(documents_SB=None):
    """What a mixer is told where one process holds everything."""
    return Context(documents_SB=documents_SB)


def one_of_several():
    """What a mixer is told on a rank whose norm groups are its own."""
    return SimpleNamespace(documents_SB=None, sum_over_copies=lambda partial, weight: partial)


def rotary_tables(spec, length, dtype):
    """What all attention layers of a model share."""
    wide = torch.promote_types(dtype, torch.float32)
    return [
        table
        for layer in spec.layers.values()
        if getattr(layer, "rope_base", None) is not None
        for table in rotation(0, length, layer.head_dim, layer.rope_base, wide, torch.device("cpu"))
    ]
