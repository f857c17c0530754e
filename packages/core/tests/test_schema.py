from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError, LayoutError
from eyas.core.schema import defaults, dump, load


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 10

    def __post_init__(self):
        if self.steps < 0:
            raise LayoutError(f"steps={self.steps} must not be negative")
        if self.rate < 0:
            raise ConfigError("a rate below zero never trains")


@dataclass(frozen=True)
class Outer:
    kind: ClassVar[str] = "outer"
    name: str
    inner: Inner
    flag: bool = False
    mode: Literal["fast", "exact", 3] = "fast"
    size: int | None = None
    scale: float | str = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    cuts: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    table: dict[str, Inner] = field(default_factory=dict)
    pattern: str | Sequence[str | int] = "M"
    extra: Any = None
    options: Mapping[str, int] = field(default_factory=dict)
    total: int = field(default=7, init=False)


MINIMAL = {"name": "a", "inner": {"rate": 0.1}}


def loaded(**changes):
    return load(Outer, MINIMAL | changes, "model")


def test_plain_data_becomes_typed_values():
    outer = loaded(
        inner={"rate": 1, "steps": 3},
        betas=["1e-1", 1],
        cuts=[1, 2],
        table={"x": {"rate": "1e-4"}},
        pattern=["a", 2],
        mode=3,
        scale="1e-4",
        extra={"any": [1]},
    )
    assert outer.inner == Inner(1.0, 3)
    assert isinstance(outer.inner.rate, float)
    assert outer.betas == (0.1, 1.0)
    assert outer.cuts == (1, 2)
    assert outer.table == {"x": Inner(0.0001)}
    assert outer.pattern == ("a", 2)
    assert outer.scale == "1e-4"
    assert (outer.mode, outer.size, outer.extra) == (3, None, {"any": [1]})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": "many"}, r"model.size: expected an integer or null, got 'many'"),
        ({"size": True}, r"model.size: expected an integer or null, got True"),
        ({"size": 2.0}, r"model.size: expected an integer or null, got 2.0"),
        ({"flag": 1}, r"model.flag: expected true or false, got 1"),
        ({"flag": "yes"}, r"model.flag: expected true or false, got 'yes'"),
        ({"name": None}, r"model.name: expected text, got None"),
        ({"mode": "slow"}, r"model.mode: expected one of 'fast', 'exact', 3, got 'slow'"),
        ({"mode": 3.0}, r"model.mode: expected one of 'fast', 'exact', 3, got 3.0"),
        ({"betas": [0.9]}, r"model.betas: expected a list of 2 \(a number, a number\), got \[0.9\]"),
        ({"cuts": "12"}, r"model.cuts: expected a list \(of an integer\), got '12'"),
        ({"cuts": [1, "x"]}, r"model.cuts\[1\]: expected an integer, got 'x'"),
        ({"inner": {"rate": "fast"}}, r"model.inner.rate: expected a number, got 'fast'"),
        ({"inner": {"rate": True}}, r"model.inner.rate: expected a number, got True"),
        ({"inner": {"rate": "1e999"}}, r"model.inner.rate: '1e999' is too large"),
        ({"inner": {"rate": 10**400}}, r"model.inner.rate: 10+\.\.\. is too large"),
        ({"inner": 3}, r"model.inner: expected a mapping, got 3"),
        ({"table": {"x": {"rate": []}}}, r"model.table.x.rate: expected a number, got \[\]"),
        ({"table": {1: {"rate": 1}}}, r"model.table: expected a mapping"),
        ({"options": {"x": "y"}}, r"model.options.x: expected an integer, got 'y'"),
        ({"pattern": [1.5]}, r"model.pattern\[0\]: expected text or an integer, got 1.5"),
        ({"name": "x" * 99, "size": "x" * 99}, r"model.size: expected an integer or null, got 'x{56}\.\.\.$"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_the_expected_type(changes, message):
    with pytest.raises(ConfigError, match="^" + message) as raised:
        loaded(**changes)
    assert "\n" not in str(raised.value)


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"^model.inner: unknown option 'step'; did you mean 'steps'\?$"):
        loaded(inner={"rate": 1, "step": 2})
    with pytest.raises(ConfigError, match="^the configuration: unknown option 'qqqq'; there are: betas, cuts,"):
        load(Outer, MINIMAL | {"qqqq": 1})


def test_a_field_that_the_class_computes_is_no_option():
    with pytest.raises(ConfigError, match="unknown option 'total'"):
        loaded(total=1)


def test_a_missing_option_is_named():
    with pytest.raises(ConfigError, match=r"^model.inner.rate: a value is required; give a number$"):
        loaded(inner={})
    with pytest.raises(ConfigError, match=r"^name: a value is required; give text$"):
        load(Outer, {"inner": {"rate": 1}})


def test_question_marks_are_a_missing_value():
    with pytest.raises(ConfigError, match=r"^model.name: a value is required; give text$"):
        loaded(name="???")


def test_a_class_s_own_errors_get_the_path_and_keep_their_type():
    with pytest.raises(LayoutError, match=r"^model.inner.steps=-1 must not be negative$"):
        loaded(inner={"rate": 1, "steps": -1})
    with pytest.raises(ConfigError, match=r"^model.table.x: a rate below zero never trains$"):
        loaded(table={"x": {"rate": -1}})
    with pytest.raises(LayoutError, match=r"^steps=-1 must not be negative$"):
        load(Inner, {"rate": 1, "steps": -1})


def test_defaults_are_plain_and_mark_what_must_be_given():
    plain = defaults(Outer)
    assert plain["name"] == plain["inner"] == "???"
    assert plain["betas"] == [0.9, 0.95]
    assert plain["table"] == {}
    assert "total" not in plain
    assert "kind" not in plain


@dataclass(frozen=True)
class Nested:
    inner: Inner = Inner(0.5)


def test_defaults_of_a_nested_class_are_a_mapping():
    assert defaults(Nested) == {"inner": {"rate": 0.5, "steps": 10}}


def test_a_class_with_defaults_loads_from_them():
    assert load(Nested, defaults(Nested)) == Nested()


def test_a_type_that_plain_data_cannot_hold_is_a_programming_error():
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="cannot hold"):
        load(Odd, {"value": 1})


finite = st.floats(allow_nan=False)
text = st.text().filter(lambda words: words != "???")
inners = st.builds(Inner, finite.filter(lambda x: x >= 0), st.integers(0))
outers = st.builds(
    Outer,
    name=text,
    inner=inners,
    flag=st.booleans(),
    mode=st.sampled_from(["fast", "exact", 3]),
    size=st.none() | st.integers(),
    scale=finite | text,
    betas=st.tuples(finite, finite),
    cuts=st.lists(st.integers()).map(tuple),
    names=st.lists(text),
    table=st.dictionaries(text, inners),
    pattern=text | st.lists(text | st.integers()).map(tuple),
    extra=st.none() | st.lists(st.integers()),
    options=st.dictionaries(text, st.integers()),
)


@given(outers)
def test_load_inverts_dump(outer):
    assert load(Outer, dump(outer)) == outer
