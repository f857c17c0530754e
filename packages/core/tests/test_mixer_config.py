"""What every mixer's Config inherits."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError, LayoutError, UnsupportedError
from eyas.core.mixer_config import MixerConfig, at_least_one, configured
from eyas.core.mup import FALCON_H1
from eyas.core.weights import Axis, Coordinates, column, replicated, row


@dataclass(frozen=True, kw_only=True)
class Heads(MixerConfig):
    """A mixer of two matrices, a tensor that ranks may share, and a bias."""

    kind = "heads"

    num_heads: int = 4
    num_groups: int = 2

    def weights(self, hidden_size):
        heads = Axis("num_heads", self.num_heads)
        return {
            "into": column(heads, 3, hidden_size),
            "out": row(hidden_size, heads, 3),
            "taps": column(Axis("num_groups", self.num_groups, shared=True), 5),
            "bias": replicated(hidden_size),
        }


class Exchanging(Heads):
    """The same, of which context ranks may each have some heads."""

    kind = "exchanging"
    exchanges_heads = True


def test_parameters_are_the_sizes_of_the_declared_weights():
    assert Heads().parameters(7) == 2 * 7 * 12 + 2 * 5 + 7


def test_a_rank_has_its_part_of_them_and_a_copy_of_what_is_shared():
    assert Heads().parameters(7, Coordinates.of(4)) == 2 * 7 * 3 + 5 + 7


@given(hidden=st.integers(1, 9), tensor=st.sampled_from([1, 2, 4]))
def test_parameters_of_the_ranks_add_up_to_the_whole_and_the_copies(hidden, tensor):
    weights = Heads().weights(hidden).values()
    copied = sum(weight.numel * (weight.copies(Coordinates.of(tensor)) - 1) for weight in weights)
    assert tensor * Heads().parameters(hidden, Coordinates.of(tensor)) == Heads().parameters(hidden) + copied


def test_flops_are_two_for_each_entry_of_a_matrix_unless_a_mixer_says_otherwise():
    assert Heads().flops(7, 100) == 2 * 2 * 7 * 12


def test_ranks_that_cannot_divide_the_weights_are_refused_by_name():
    for tensor in (1, 2, 4):
        Heads().check_split(7, Coordinates.of(tensor))
    with pytest.raises(LayoutError, match=r"heads.num_heads=4 cannot be split over layout.tensor=3; .*\(1, 2, 4\)"):
        Heads().check_split(7, Coordinates.of(3))
    with pytest.raises(LayoutError, match=r"heads.num_groups=3 cannot be split over layout.tensor=4; .* multiple of 3"):
        Heads(num_groups=3).check_split(7, Coordinates.of(4))


def test_heads_that_ranks_cannot_exchange_are_refused_by_name_where_a_mixer_exchanges_them():
    Heads().check_exchange(7, 1, 3)
    Exchanging().check_exchange(7, 1, 4)
    with pytest.raises(LayoutError, match=r"exchanging.num_heads=4 leaves 2 to each of layout.tensor=2 ranks"):
        Exchanging().check_exchange(7, 2, 4)


def test_a_law_says_nothing_to_a_mixer_without_multipliers():
    assert Heads().with_law(FALCON_H1, 7) == Heads()


@pytest.mark.parametrize("count", [0, -1])
def test_a_size_below_one_is_refused_by_name(count):
    with pytest.raises(ConfigError, match=f"num_groups={count} must be at least 1"):
        at_least_one(Heads(num_groups=count), "num_heads", "num_groups")


def test_only_an_open_value_is_filled():
    assert configured(None, 2.0) == 2.0
    assert configured(0.0, 2.0) == 0.0


@pytest.mark.parametrize("call", [lambda c: c.activation_bytes(7, 8, 1), lambda c: c.state_bytes(7, 8)])
def test_memory_has_no_default_that_would_be_wrong(call):
    with pytest.raises(UnsupportedError, match="heads does not state"):
        call(Heads())
