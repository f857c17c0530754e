from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from eyas.parallel.balance import balanced_cuts


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """Costs, a number of parts, and the places where they may be cut."""
    costs = draw(st.lists(st.integers(0, 9), min_size=1, max_size=9))
    places = sorted(draw(st.sets(st.integers(1, len(costs) - 1)))) if len(costs) > 1 else []
    return costs, draw(st.integers(1, len(places) + 1)), places


@given(rows())
def test_no_division_has_a_cheaper_greatest_part_or_is_more_even_with_the_same(
    case: tuple[list[int], int, list[int]],
) -> None:
    costs, parts, places = case

    def rank(cuts: tuple[int, ...]) -> tuple[int, int]:
        sums = [sum(costs[first:end]) for first, end in zip((0, *cuts), (*cuts, len(costs)), strict=True)]
        return max(sums), sum(part * part for part in sums)

    found = balanced_cuts(costs, parts, places)
    assert set(found) <= set(places) and list(found) == sorted(set(found)) and len(found) == parts - 1
    assert rank(found) == min(rank(cuts) for cuts in combinations(places, parts - 1))


def test_a_long_model_is_balanced_at_once() -> None:
    cuts = balanced_cuts([1.0 + index % 3 for index in range(600)], 64, range(1, 600))
    assert len(cuts) == 63
