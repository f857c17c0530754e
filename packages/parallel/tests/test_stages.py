from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import LayoutError
from eyas.parallel.stages import split


@st.composite
def cut_blocks(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """A number of blocks, a number of stages, and cuts that leave no stage empty."""
    blocks = draw(st.integers(1, 40))
    cuts = sorted(draw(st.sets(st.integers(1, blocks - 1)))) if blocks > 1 else []
    return blocks, len(cuts) + 1, cuts


@given(st.integers(1, 60).flatmap(lambda blocks: st.tuples(st.just(blocks), st.integers(1, blocks))))
def test_stages_tile_the_blocks_as_evenly_as_possible(sizes: tuple[int, int]) -> None:
    blocks, stages = sizes
    ranges = split(blocks, stages)
    assert list(chain(*ranges)) == list(range(blocks))
    assert len(ranges) == stages
    lengths = [len(stage) for stage in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(cut_blocks())
def test_stages_begin_at_the_cuts(case: tuple[int, int, list[int]]) -> None:
    blocks, stages, cuts = case
    ranges = split(blocks, stages, cuts)
    assert list(chain(*ranges)) == list(range(blocks))
    assert [stage.start for stage in ranges] == ([0, *cuts] if cuts else [0])


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"layout.pipeline=4 stages cannot share 3 blocks"):
        split(3, 4)


@given(cut_blocks(), st.integers(1, 40))
def test_cuts_must_make_as_many_stages_as_the_layout(case: tuple[int, int, list[int]], pipeline: int) -> None:
    blocks, stages, cuts = case
    if cuts and pipeline not in (1, stages):
        with pytest.raises(LayoutError, match=f"set layout.pipeline={stages}"):
            split(blocks, pipeline, cuts)


@pytest.mark.parametrize("cuts", [[0], [4], [5]])
def test_an_empty_stage_is_refused(cuts: list[int]) -> None:
    with pytest.raises(LayoutError, match="has no blocks"):
        split(4, 2, cuts)


def test_cuts_mean_nothing_to_a_single_stage() -> None:
    assert split(4, 1, [1, 3]) == [range(4)]
