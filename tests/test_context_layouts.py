"""Ranks that share each sequence compute what one process computes."""

import pytest
from models import MIXERS, falcon_h1, holding, hymba, mixture, zamba2

from eyas.layers.testing import Trial, assert_equal_outcomes, assert_layout_changes_nothing, run
from eyas.parallel.layout import Layout

SHARED = {
    "two ranks, zigzag": Layout(context=2),
    "two ranks, contiguous": Layout(context=2, context_order="contiguous"),
    "four ranks, zigzag": Layout(context=4),
    "four ranks, contiguous": Layout(context=4, context_order="contiguous"),
}
ATTENTION = {
    "kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "qk_norm": True, "sinks": True,
}  # fmt: skip
WINDOW = {"kind": "attention", "num_heads": 4, "head_dim": 4, "window": 3}
SINKING = WINDOW | {"window": 5, "sink_tokens": 2}
MAMBA2 = {"kind": "mamba2", "num_heads": 4, "head_dim": 4, "state_size": 5, "num_groups": 2, "chunk_size": 4}
KINDS = {"attention": ATTENTION, "window": WINDOW, "sink tokens": SINKING, "mamba2": MAMBA2, **MIXERS}


@pytest.mark.parametrize("layout", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("mixer", KINDS.values(), ids=KINDS.keys())
def test_every_mixer_is_the_same_where_ranks_share_sequences(mixer, layout):
    assert_layout_changes_nothing(holding(mixer), layout, documents=True)
