"""The conformance kit for mixers: `Conformance`, and the proof that a layout changes nothing.

Needs pytest and hypothesis, which the extra `testing` installs; the rest of eyas.layers does not.
"""

from eyas.layers.testing.checkpoints import assert_checkpoint_loads
from eyas.layers.testing.conformance import Conformance
from eyas.layers.testing.layouts import (
    STEADY,
    Outcome,
    Trial,
    assert_equal_outcomes,
    assert_layout_changes_nothing,
    run,
    train_here,
)

__all__ = [
    "STEADY",
    "Conformance",
    "Outcome",
    "Trial",
    "assert_checkpoint_loads",
    "assert_equal_outcomes",
    "assert_layout_changes_nothing",
    "run",
    "train_here",
]
