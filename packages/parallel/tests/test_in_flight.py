import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.parallel.in_flight import most_kept, passes
from eyas.parallel.layout import Layout

INTERLEAVED = Layout(pipeline=2, virtual_pipeline=2)


@given(st.integers(1, 5), st.integers(1, 12), st.data())
def test_one_stage_a_process_keeps_as_many_microbatches_as_stages_follow(
    pipeline: int, microbatches: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, pipeline - 1))
    assert most_kept(Layout(pipeline=pipeline), rank, microbatches, [3.0]) == 3.0 * min(pipeline - rank, microbatches)


@given(st.integers(2, 4), st.integers(2, 3), st.integers(1, 3), st.data())
def test_every_stage_works_on_every_microbatch_forward_and_then_backward(
    pipeline: int, virtual: int, groups: int, data: st.DataObject
) -> None:
    layout, rank = Layout(pipeline=pipeline, virtual_pipeline=virtual), data.draw(st.integers(0, pipeline - 1))
    done = list(passes(layout, rank, groups * pipeline))
    for stage in range(virtual):
        mine = [forward for found, forward in done if found == stage]
        assert mine.count(True) == mine.count(False) == groups * pipeline
        assert all(mine[:turn].count(True) >= mine[:turn].count(False) for turn in range(len(mine)))


@pytest.mark.parametrize(("rank", "kept"), [(0, [3, 2]), (1, [2, 1])])
def test_interleaved_stages_keep_the_microbatches_of_the_published_schedule(rank: int, kept: list[int]) -> None:
    """Two processes with two stages each: the first runs 2 (p - r - 1) + (v - 1) p + 1 = 5 stages ahead of its first
    backward pass, the last 3 (Narayanan et al., 2021, figure 4)."""
    assert [most_kept(INTERLEAVED, rank, 8, [1, 1])] == [sum(kept)]
    before = [stage for stage, _ in list(passes(INTERLEAVED, rank, 8))[: sum(kept)]]
    assert [before.count(stage) for stage in (0, 1)] == kept
