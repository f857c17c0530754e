import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import LayoutError
from eyas.core.weights import Axis, Coordinates, column, per_expert, replicated, row

DIVISORS = [1, 2, 3, 4, 6, 8, 12]


@st.composite
def split_weights(draw):
    """A weight and a number of ranks that can hold it, more than there are units if the axis is shared."""
    units = draw(st.sampled_from(DIVISORS))
    shared = draw(st.booleans())
    divisors = [size for size in range(1, units + 1) if units % size == 0]
    tensor = draw(st.sampled_from(divisors + [units * n for n in (2, 3)] if shared else divisors))
    axis = Axis("num_heads", units, shared)
    width, other = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = [column(axis, width), column(axis, width, other), column(axis, width, other, 2), row(other, axis, width)]
    return draw(st.sampled_from(shapes)), tensor


def entries(slices):
    return set(itertools.product(*(range(part.start, part.stop) for part in slices)))


@given(split_weights())
def test_the_slices_of_all_ranks_tile_the_tensor(drawn):
    weight, tensor = drawn
    held = [
        entry
        for rank in range(tensor)
        for entry in entries(weight.local_slices(Coordinates(tensor_rank=rank, tensor=tensor)))
    ]
    assert set(held) == set(itertools.product(*map(range, weight.shape)))
    assert all(held.count(entry) == weight.copies(Coordinates.of(tensor)) for entry in set(held))


@given(split_weights())
def test_every_slice_has_the_local_shape(drawn):
    weight, tensor = drawn
    for rank in range(tensor):
        slices = weight.local_slices(Coordinates(tensor_rank=rank, tensor=tensor))
        assert tuple(part.stop - part.start for part in slices) == weight.local_shape(Coordinates.of(tensor))


@given(split_weights())
def test_a_split_that_fits_passes_the_check(drawn):
    weight, tensor = drawn
    weight.axis.check("mamba2", tensor)
    assert weight.axis.local_units(tensor) * tensor == weight.axis.units * weight.axis.copies(tensor)


def test_ranks_that_share_a_unit_are_neighbours():
    groups = Axis("num_groups", 2, shared=True)
    held = [column(groups, 1).local_slices(Coordinates(tensor_rank=rank, tensor=6))[0] for rank in range(6)]
    assert [part.start for part in held] == [0, 0, 0, 1, 1, 1]
    assert groups.copies(6) == 3


def test_a_replicated_weight_is_whole_on_every_rank():
    weight = replicated(4, 3)
    assert weight.local_shape(Coordinates.of(8)) == weight.shape
    assert weight.local_slices(Coordinates(tensor_rank=5, tensor=8)) == (slice(0, 4), slice(0, 3))
    assert weight.copies(Coordinates.of(8)) == 8


def test_columns_split_the_first_dimension_and_rows_the_second():
    heads = Axis("num_heads", 4)
    assert column(heads, 2, 5).local_shape(Coordinates.of(2)) == (4, 5)
    assert row(5, heads, 2).local_shape(Coordinates.of(2)) == (5, 4)


def test_options_of_a_weight_are_kept():
    weight = column(Axis("num_heads", 2), 1, decay=False, float32=True)
    assert (weight.decay, weight.float32, weight.but(decay=True).decay) == (False, True, True)


def test_an_axis_that_cannot_be_split_names_the_field_and_the_remedy():
    with pytest.raises(LayoutError) as raised:
        Axis("num_heads", 24).check("mamba2", 16)
    assert str(raised.value) == (
        "mamba2.num_heads=24 cannot be split over layout.tensor=16; choose a divisor of 24 (1, 2, 3, 4, 6, 8, 12, 24)"
    )


def test_more_ranks_than_units_need_a_shared_axis():
    with pytest.raises(LayoutError, match="choose a divisor"):
        Axis("num_groups", 2).check("mamba2", 4)
    Axis("num_groups", 2, shared=True).check("mamba2", 4)
    with pytest.raises(LayoutError, match=r"choose a divisor of 2 \(1, 2\), or a multiple of 2$"):
        Axis("num_groups", 2, shared=True).check("mamba2", 3)


def test_ranks_exchange_units_that_divide_or_that_they_may_share():
    Axis("num_heads", 8).check_exchange("mamba2", 2, 4)
    Axis("num_groups", 2, shared=True).check_exchange("mamba2", 1, 4)
    for axis, context in ((Axis("num_heads", 8), 8), (Axis("num_groups", 2, shared=True), 3)):
        with pytest.raises(LayoutError, match=f"mamba2.{axis.name}={axis.units} leaves .* layout.context={context} "):
            axis.check_exchange("mamba2", 2 if axis.units == 8 else 1, context)


@given(experts=st.sampled_from([4, 8]), expert=st.sampled_from([1, 2, 4]), inside=st.sampled_from([1, 3]))
def test_experts_lie_on_a_grid_of_their_own(experts, expert, inside):
    down = per_expert(experts, row(5, Axis("neurons", 6), 1))
    assert down.shape == (experts, 5, 6) and down.numel == experts * 30
    ranks = [
        Coordinates(tensor=7, expert_rank=e, expert=expert, expert_tensor_rank=t, expert_tensor=inside)
        for e in range(expert)
        for t in range(inside)
    ]
    held = [entry for at in ranks for entry in entries(down.local_slices(at))]
    assert len(held) == len(set(held)) == down.numel
    assert {down.local_shape(at) for at in ranks} == {(experts // expert, 5, 6 // inside)}
    assert {down.copies(at) for at in ranks} == {1}


def test_ranks_that_cannot_divide_experts_are_refused():
    up = per_expert(6, column(Axis("intermediate_size", 8), 1, 5))
    with pytest.raises(LayoutError, match=r"moe.num_experts=6 cannot be split over layout.expert=4; choose a divisor"):
        up.check("moe", Coordinates.of(expert=4))
    with pytest.raises(LayoutError, match=r"intermediate_size=8 cannot be split over layout.expert_tensor=3"):
        up.check("moe", Coordinates.of(tensor=2, expert=2, expert_tensor=3))
