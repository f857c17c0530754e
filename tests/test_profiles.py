"""The default session draws the same cases each time, and the proofs draw others."""

import hypothesis
import pytest


@pytest.mark.parametrize(("name", "same"), [("default", True), ("proofs", False)])
def test_what_a_session_draws(name, same):
    """A profile has the options of the one that was loaded before it, where it does not state its own."""
    assert hypothesis.settings.get_profile(name).derandomize is same
