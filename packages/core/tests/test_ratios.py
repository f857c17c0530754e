import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.core.ratios import pattern_from_ratios

MAMBA_2_HYBRID_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"


@pytest.mark.parametrize(
    "length, attention, mlp, pattern",
    [
        (9, 1 / 3, 1 / 3, "M-*M*-M*-"),
        (8, 0.25, 0.0, "MM*MM*MM"),
        (10, 0.0, 0.5, "M-M-M-M-M-"),
        (4, 0.0, 0.0, "MMMM"),
        (3, 1.0, 0.0, "***"),
    ],
)
def test_layers_are_spread_as_megatron_spreads_them(length, attention, mlp, pattern):
    assert pattern_from_ratios(length, attention, mlp) == pattern


def test_the_published_ratios_give_the_published_mamba_2_hybrid():
    assert pattern_from_ratios(56, 0.08, 0.5) == MAMBA_2_HYBRID_8B


@given(st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_the_pattern_has_the_number_of_layers_asked_for(sizes, data):
    length, attention = sizes
    mlp = data.draw(st.integers(0, length - attention))
    pattern = pattern_from_ratios(length, attention / length, mlp / length)
    assert (len(pattern), pattern.count("*"), pattern.count("-")) == (length, attention, mlp)


@given(st.integers(3, 150), st.integers(1, 20))
def test_attention_stands_between_mamba_layers(length, attention):
    attention = min(attention, length // 3)
    pattern = pattern_from_ratios(length, attention / length, 0)
    gaps = [len(gap) for gap in pattern.split("*")]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    "length, attention, mlp, message",
    [
        (0, 0.1, 0.1, "length=0"),
        (8, -0.1, 0.1, "ratio attention=-0.1"),
        (8, 0.1, 1.5, "ratio mlp=1.5"),
        (8, 0.6, 0.6, r"ratio attention \+ mlp=1.2"),
        (8, float("nan"), 0.1, "ratio attention=nan"),
        (3, 0.5, 0.5, r"round to 2 \+ 2 of 3 layers"),
    ],
)
def test_ratios_that_no_stack_can_have_are_refused(length, attention, mlp, message):
    with pytest.raises(ConfigError, match=message):
        pattern_from_ratios(length, attention, mlp)
