"""One of something is not several."""

from eyas.core.counted import counted


def test_one_is_told_from_several():
    assert [counted(number, "step") for number in (0, 1, 2, 2000)] == ["0 steps", "1 step", "2 steps", "2,000 steps"]
    assert [counted(number, "process", "processes") for number in (1, 4)] == ["1 process", "4 processes"]
