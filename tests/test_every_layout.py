"""Every pair of the kinds of parallelism, with everything else drawn: any layout computes what one process computes."""

import itertools

import pytest
import reached
from drawn import AXES, FEATURES, PAIRS, active, beside, trials
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eyas.layers.testing import assert_equal_outcomes, run
from eyas.parallel.layout import Layout

EXAMPLES = 4
"""Of each pair: with those of single axes more than five hundred in all."""
DRAW = Phase.explicit, Phase.reuse, Phase.generate
"""A case that fails is not made smaller: that takes minutes, and what was drawn is printed."""
REPRESENTATIVE = [(axis,) for axis in AXES]
"""What the default session draws: every axis, beside whatever else its examples have."""


def prove(data: st.DataObject, wanted: tuple[str, ...]) -> None:
    trial, layout = data.draw(trials(wanted))
    assert_equal_outcomes(run(trial, layout), run(trial, Layout()), trial, layout)
    reached.note(active(layout) | beside(trial, layout))


@pytest.mark.parametrize("wanted", REPRESENTATIVE, ids=" and ".join)
@settings(max_examples=2)
@given(data=st.data())
def test_a_layout_with_this_axis_changes_nothing(wanted, data):
    prove(data, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", PAIRS, ids=" and ".join)
@settings(max_examples=EXAMPLES, phases=DRAW)
@given(data=st.data())
def test_a_layout_with_both_axes_changes_nothing(wanted, data):
    prove(data, wanted)


@pytest.mark.slow
def test_every_pair_of_axes_was_proved():
    """Runs behind all others of this file."""
    wanted = [*PAIRS, *itertools.product(AXES, FEATURES)]
    missing = [pair for pair in wanted if not any(case >= set(pair) for case in reached.proved)]
    assert not missing, f"never proved together: {missing}"
