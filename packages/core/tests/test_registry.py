"""The registry, on entry points that stand in for installed packages."""

from types import SimpleNamespace

import pytest

from eyas.core import registry
from eyas.core.errors import ConfigError
from eyas.core.registry import collect, register


def registered(kind, symbol=None):
    """A class such as a package would bring."""

    class Config:
        pass

    class Made:
        """A made-up mixer.

        More about it.
        """

    Made.Config = Config
    return register(kind, symbol=symbol)(Made)


def point(name, mixer, package):
    def load():
        if isinstance(mixer, Exception):
            raise mixer
        return mixer

    return SimpleNamespace(name=name, load=load, dist=SimpleNamespace(name=package))


def test_a_package_adds_a_mixer_by_its_entry_point():
    made = registered("made", "Q")
    found = collect([point("made", made, "eyas-made")])["made"]
    assert (found.kind, found.symbol, found.mixer, found.package) == ("made", "Q", made, "eyas-made")
    assert found.summary == "A made-up mixer."


def test_two_claims_for_a_name_name_both_packages():
    points = [point("made", registered("made"), "eyas-one"), point("made", registered("made"), "eyas-two")]
    with pytest.raises(ConfigError, match="mixer 'made' is claimed by both eyas-one and eyas-two"):
        collect(points)


def test_two_claims_for_a_symbol_name_both_packages():
    points = [point("a", registered("a", "Q"), "eyas-one"), point("b", registered("b", "Q"), "eyas-two")]
    with pytest.raises(ConfigError, match="symbol 'Q' is claimed by both 'a' of eyas-one and 'b' of eyas-two"):
        collect(points)


def test_the_order_of_entry_points_does_not_matter():
    points = [point("a", registered("a", "Q"), "eyas-one"), point("b", registered("b"), "eyas-two")]
    assert collect(points) == collect(points[::-1])


def test_one_mixer_that_is_listed_twice_is_one_mixer():
    made = registered("made")
    assert list(collect([point("made", made, "eyas-one"), point("made", made, "eyas-one")])) == ["made"]


def test_a_mixer_made_of_another_does_not_take_its_name():
    first = registered("first", "Q")

    class Second(first):
        pass

    with pytest.raises(ConfigError, match=r"'second' \(.*Second\) shares its Config with 'first'; give it one of its"):
        register("second")(Second)
    assert (first.Config.kind, first.symbol) == ("first", "Q")

    class Third(first):
        class Config(first.Config):
            pass

    assert register("third")(Third).Config.kind == "third"
    assert first.Config.kind == "first"


@pytest.mark.parametrize("error", [ImportError("No module named 'absent'"), AttributeError("module has no Made")])
def test_an_entry_point_that_does_not_load_is_one_clear_line(error):
    with pytest.raises(ConfigError) as raised:
        collect([point("made", error, "eyas-made")])
    text = str(raised.value)
    assert text.startswith("mixer 'made' of eyas-made does not load (")
    assert text.endswith(f": {error}); mend or remove it")


@pytest.mark.parametrize("loaded", [registered("other"), object()])
def test_an_entry_point_must_name_the_class_registered_under_it(loaded):
    with pytest.raises(ConfigError, match=r"entry point 'made' of eyas-made must name .*@register\('made'\)"):
        collect([point("made", loaded, "eyas-made")])


def test_an_unknown_kind_suggests_the_nearest(monkeypatch):
    table = collect([point("mamba2", registered("mamba2", "M"), "eyas-layers")])
    monkeypatch.setattr(registry, "mixers", lambda: table)
    assert registry.mixer("mamba2").symbol == "M"
    with pytest.raises(ConfigError, match=r"unknown mixer 'mamba'; did you mean 'mamba2'\?"):
        registry.mixer("mamba")


@pytest.mark.parametrize("symbol", ["m", "MM", "1", "|", "", "P"])
def test_a_symbol_is_a_capital_letter_other_than_p(symbol):
    with pytest.raises(ConfigError, match="a symbol is one capital letter"):
        register("made", symbol=symbol)
