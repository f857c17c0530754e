"""Every division of Falcon-H1's channels builds, learns in a step, and shards: its heads where two ranks can have as
many each, else its blocks."""

import pytest
import torch

from eyas.core.allocation import PATTERNS, AllocationConfig, allocated, every_division
from eyas.core.errors import LayoutError
from eyas.core.model import load_model
from eyas.experiments.model_group import model_group
from eyas.layers.model import HybridLM
from eyas.layers.testing import assert_layout_changes_nothing
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout

TENSOR, PIPELINE = Layout(tensor=2), Layout(pipeline=2)
POINTS = [(shares, order) for shares in every_division() for order in PATTERNS]
QUICK = [((2, 2, 4), "SAM"), ((1, 4, 3), "SA_M"), ((5, 2, 1), "S_A_M"), ((2, 1, 5), "SA_M")]
"""Enough for every day; the last is the report's own."""
SIXTEENTH = model_group("falcon_h1_allocation/sixteenth", {"vocab_size": 32, "sequence_length": 16})


def model(shares, order):
    """A point at a sixteenth of the published width, one layer deep."""
    return allocated(AllocationConfig(shares=shares, order=order, scale=16), SIXTEENTH) | {"repeat": 1}


def split_heads(shares):
    """Whether two ranks can have as many heads each: attention has three in an eighth of its channels."""
    return 3 * shares[1] % 2 == 0


@pytest.mark.parametrize(("shares", "order"), POINTS)
def test_a_division_learns_in_a_step(shares, order):
    built = HybridLM(load_model(model(shares, order))).initialise(0)
    draw = torch.Generator().manual_seed(1)
    tokens, labels = (torch.randint(32, (2, 16), generator=draw) for _ in range(2))
    before = built(tokens, labels).mean()
    before.backward()
    with torch.no_grad():
        for weight in built.parameters():
            weight -= 1e-2 * weight.grad
        assert built(tokens, labels).mean() < before


def test_tensor_parallelism_splits_just_the_divisions_whose_heads_divide():
    for point in POINTS:
        spec = load_model(model(*point))
        if split_heads(point[0]):
            check_fits(spec, TENSOR, 16)
        else:
            with pytest.raises(LayoutError, match=r"layers\.attn: attention\.num_heads=\d+ cannot be split"):
                check_fits(spec, TENSOR, 16)
    assert sum(split_heads(shares) for shares, _ in POINTS) == 27 and len(POINTS) == 63


@pytest.mark.parametrize(
    ("shares", "order"),
    [point if point in QUICK else pytest.param(*point, marks=pytest.mark.slow) for point in POINTS],
)
def test_a_division_shards(shares, order):
    layout, repeat = (TENSOR, 1) if split_heads(shares) else (PIPELINE, 2)
    assert_layout_changes_nothing(model(shares, order) | {"repeat": repeat}, layout, sequence_length=8)
