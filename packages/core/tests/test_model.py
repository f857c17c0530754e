"""The model specification: every mistake is one line that names its place."""

import pytest
import standins

from eyas.core import registry
from eyas.core.errors import ConfigError, PatternError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import load_model
from eyas.core.mup import FALCON_H1
from eyas.core.registry import Registered


@pytest.fixture(autouse=True)
def boxes(monkeypatch):
    """Boxes are the only mixers."""
    monkeypatch.setattr(registry, "mixers", lambda: standins.TABLE)


def model(**changes):
    """Plain data of a small model."""
    layers = {"a": {"kind": "box", "width": 2}, "b": {"kind": "box"}}
    return {"hidden_size": 8, "vocab_size": 5, "layers": layers, "pattern": ["a", "a+b"]} | changes


def test_a_model_is_its_layers_in_the_patterns_order():
    spec = load_model(model(repeat=2))
    assert spec.pattern.blocks == (("a",), ("a", "b")) * 2
    assert spec.layers == {"a": standins.Box(width=2), "b": standins.Box()}
    assert (spec.embedding_multiplier, spec.lm_head_multiplier) == (1.0, 1.0)


def test_a_symbol_stands_for_the_layer_of_its_mixer():
    spec = load_model(model(layers={"a": {"kind": "box"}}, pattern="XX"))
    assert spec.pattern.blocks == (("a",), ("a",))


def test_a_law_gives_the_multipliers_that_are_open():
    spec = load_model(model(mup="falcon_h1"))
    assert spec.embedding_multiplier == FALCON_H1.embedding()
    assert spec.lm_head_multiplier == FALCON_H1.lm_head(8)
    assert spec.layers["a"].scale == FALCON_H1.lm_head(8)


def test_a_multiplier_that_is_set_wins_over_the_law():
    layers = {"a": {"kind": "box", "scale": 0.0}, "b": {"kind": "box"}}
    spec = load_model(model(mup="falcon_h1", layers=layers, embedding_multiplier=2, lm_head_multiplier=0.0))
    assert (spec.embedding_multiplier, spec.lm_head_multiplier) == (2.0, 0.0)
    assert (spec.layers["a"].scale, spec.layers["b"].scale) == (0.0, FALCON_H1.lm_head(8))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"layers": {"a": {"kind": "box"}, "b": {"kind": "lawless"}}}, "model.layers.b"),
        ({"pattern": ["a", "/", "b"]}, "model.pattern's depths behind '/'"),
        ({"blocks": {"c": {"layers": "b", "projection": True}}, "pattern": ["a", "c"]}, "model.blocks.c.projection"),
    ],
)
def test_a_law_at_another_width_is_refused_where_it_has_no_multipliers(changes, what, monkeypatch):
    class Lawless(standins.Box):
        kind = "lawless"
        with_law = MixerConfig.with_law

    mixer = type("LawlessMixer", (standins.BoxMixer,), {"Config": Lawless})
    table = {**standins.TABLE, "lawless": Registered("lawless", None, mixer, "eyas-boxes")}
    monkeypatch.setattr(registry, "mixers", lambda: table)
    load_model(model(mup="falcon_h1", mup_base=8, **changes))
    with pytest.raises(ConfigError, match=f"{what} has no multipliers of mup=falcon_h1, so that mup_base=4 cannot"):
        load_model(model(mup="falcon_h1", mup_base=4, **changes))


def test_without_a_law_every_multiplier_stays_open():
    assert load_model(model()).layers["a"].scale is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"a": {"kind": "bax"}}}, "model.layers.a.kind: unknown mixer 'bax'; did you mean 'box'?"),
        ({"layers": {"a": {"kind": "mlp"}}}, "model.layers.a.kind: unknown mixer 'mlp'; there are: box"),
        ({"layers": {"a": {"width": 2}}}, "model.layers.a.kind is missing; name a registered mixer"),
        ({"layers": {"a": {"kind": 3}}}, "model.layers.a.kind is missing; name a registered mixer"),
        ({"layers": {"a": None}}, "model.layers.a.kind is missing; name a registered mixer"),
        ({"layers": {"a": "box"}}, "model.layers.a.kind is missing; name a registered mixer"),
        (
            {"layers": {"a": {"kind": "box", "widht": 2}}},
            "model.layers.a: unknown option 'widht'; did you mean 'width'?",
        ),
        ({"layers": {"a": {"kind": "box", "width": "2"}}}, "model.layers.a.width: expected an integer, got '2'"),
        ({"layers": {"a": {"kind": "box", "width": 0}}}, "model.layers.a.width=0 must be at least 1"),
        ({"hidden_sise": 8}, "model: unknown option 'hidden_sise'; did you mean 'hidden_size'?"),
        ({"hidden_size": 8.5}, "model.hidden_size: expected an integer, got 8.5"),
        ({"hidden_size": 0}, "model.hidden_size=0 must be at least 1"),
        ({"vocab_size": 0}, "model.vocab_size=0 must be at least 1"),
        ({"repeat": 0}, "model.repeat=0 must be at least 1"),
        ({"mup": "falcon"}, "model: unknown muP law 'falcon'; did you mean 'falcon_h1'?"),
        ({"tie_embeddings": "yes"}, "model.tie_embeddings: expected true or false, got 'yes'"),
    ],
)
def test_a_mistake_is_named_with_its_place(changes, message):
    with pytest.raises(ConfigError) as raised:
        load_model(model(**changes))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "layers", "pattern"])
def test_what_must_be_given_is_asked_for_by_name(field):
    incomplete = model()
    del incomplete[field]
    with pytest.raises(ConfigError, match=rf"model.{field}: a value is required"):
        load_model(incomplete)


def test_a_pattern_names_layers_that_exist():
    with pytest.raises(PatternError, match="'c'"):
        load_model(model(pattern=["a", "c"]))
