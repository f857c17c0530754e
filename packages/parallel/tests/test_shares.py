"""Jobs side by side have no core and no GPU in common."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import LayoutError
from eyas.parallel.layout import Layout
from eyas.parallel.shares import VISIBLE, Shares, shares_here, slice_of

CORES = tuple(sorted(os.sched_getaffinity(0)))


@given(st.integers(1, 9), st.integers(1, 40))
def test_shares_are_equal_and_apart(count: int, parts: int) -> None:
    shares = [slice_of(range(parts), number, count) for number in range(count)]
    assert {len(share) for share in shares} == {max(1, parts // count)}
    if parts >= count:
        assert len({part for share in shares for part in share}) == sum(map(len, shares))


def test_two_jobs_see_different_gpus_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "4,5,6,7")
    first, second = (shares_here(tmp_path, 2, gpus=4) for _ in range(2))  # as two processes see them
    with first.one() as number:
        seen = os.environ[VISIBLE], os.sched_getaffinity(0)
        assert (number, seen) == (0, ("4,5", set(slice_of(CORES, 0, 2))))
        os.sched_setaffinity(0, CORES)
        with second.one() as other:
            assert (other, os.environ[VISIBLE]) == (1, "6,7")
            assert os.sched_getaffinity(0) == set(slice_of(CORES, 1, 2))
    assert (os.environ[VISIBLE], os.sched_getaffinity(0)) == ("4,5,6,7", set(CORES))


def test_a_share_is_free_again_after_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    shares = shares_here(tmp_path, 1, gpus=0)
    for _ in range(2):
        with shares.one() as number:
            assert number == 0
            assert VISIBLE not in os.environ


def test_a_layout_that_needs_more_than_a_share_is_refused(tmp_path: Path) -> None:
    eight = Shares(tmp_path, 2, tuple("01234567"), tuple(range(16)))
    eight.check(Layout(tensor=4))
    with pytest.raises(
        LayoutError, match="needs 8 processes, but the share of one of 2 jobs side by side .* at most 4"
    ):
        eight.check(Layout(tensor=8))
    with pytest.raises(LayoutError, match="16 jobs side by side cannot share 8 GPUs"):
        Shares(tmp_path, 16, eight.gpus, eight.cores).check(Layout())
