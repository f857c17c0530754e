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
ATTENTION = {"kind": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "qk_norm": True}


@pytest.mark.parametrize("layout", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "packed documents"])
def test_attention_is_the_same(layout, documents):
    assert_layout_changes_nothing(holding(ATTENTION), layout, documents=documents)
