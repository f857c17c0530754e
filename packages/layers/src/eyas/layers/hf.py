"""Models in Hugging Face's names. A family is data: a table of options and a table of tensors, each read both ways.

`hf_options` turns a family's config.json into our `model` group and back, `hf_tensors` its tensors into ours and back;
`hf_families` lists the families. A new family is one file with a `Family`, and one line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelSpec
from eyas.core.schema import REQUIRED

TheirConfig = dict[str, Any]
"""A config.json whose nested options have dotted names: `rope_parameters.rope_theta`."""
Blocks = tuple[tuple[str, ...], ...]
"""Kinds of mixers side by side, for each of our blocks that one of their layers makes."""
LAYER_TYPES = "layer_types"
"""The option under which `complete` gives, and `finish` takes, the type of every layer."""
DEPTH_TYPE = "depth_type"
"""The same of the layers that predict further tokens, in families that have such."""
LAYER_NAMES = {"mamba1": "ssm", "mamba2": "ssm", "attention": "attn", "mlp": "ffn"}
"""How the layers of an imported model are called, by kind; any other kind lends its own name."""


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@dataclass(frozen=True)
class Option:
    """One of their options, and those of ours that follow it."""

    theirs: str
    ours: tuple[str, ...]
    """`hidden_size`, or `attention.num_heads` for an option of the layers of that kind; none where shared blocks follow
    it."""
    default: Any = REQUIRED
    """What a config.json means that leaves the option out."""
    to_ours: Callable[[Any], Any] = same
    to_theirs: Callable[[Any], Any] = same


def option(theirs: str, *ours: str, **details: Any) -> Option:
    """An Option, written short."""
    return Option(theirs, ours, **details)


@dataclass(frozen=True)
class Part:
    """One of their tensors, and the weights of a mixer that it is made of."""

    theirs: str
    """Name within a layer. Where experts have a tensor each, `{}` stands for the expert's number."""
    ours: tuple[str, ...]
    """Weights that lie behind each other along `dim`; the part is there if the mixer declares them."""
    squeezed: int | None = None
    """A dimension of size one that ours lack."""
    dim: int = 0
    groups: str | None = None
    """An option of the mixer, such as its number of heads: theirs are so many groups of rows (dimension 0), and ours
    lie behind each other (dimension 1) in each."""
    given: tuple[tuple[str, bool], ...] = ()
    """Other weights that the mixer must declare (True) or must not (False), else the part is not there."""

    @property
    def per_expert(self) -> bool:
        """Whether ours hold all experts' tensors, stacked."""
        return "{}" in self.theirs


@dataclass(frozen=True)
class Section:
    """Weights that stand together, in their names and in ours."""

    theirs: str
    """What their names begin with."""
    ours: str
    """What our names begin with."""
    parts: tuple[Part, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of our weights, whole, by the rest of the name."""
    mixer: MixerConfig | None = None
    """Whose weights they are; None outside mixers."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Their names of the tensors outside the mixers."""

    embedding: str = "model.embed_tokens.weight"
    layers: str = "model.layers"
    norms: tuple[str, ...]
    """Within a layer, the norm of each of its blocks."""
    final_norm: str
    head: str = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class DepthNames:
    """How a family speaks of layers that predict further tokens: they come behind the others, and are like them but for
    these tensors."""

    option: str
    """How many there are, in config.json; transformers saves none of them, whatever it says."""
    embedding_norm: str
    hidden_norm: str
    join: str
    final_norm: str
    embedding: str
    """A copy of the model's."""
    head: str
    """A copy of the model's."""


@dataclass(frozen=True)
class SharedBlocks:
    """How a family's config.json and its tensors speak of blocks that have options."""

    arrange: Callable[[TheirConfig], tuple[list[str], dict[str, Any]]]
    """The pattern, a name for each block, and the options of named blocks, for a completed configuration."""
    options: Callable[[ModelSpec, list[str]], TheirConfig]
    """The inverse, given the types of the layers; raises ConfigError for blocks that the family has not."""
    sections: Callable[[Family, ModelSpec], Iterator[Section]]
    """Where the blocks have their tensors."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A `model_type` of transformers."""

    model_type: str
    architecture: str
    """The class that transformers loads."""
    options: tuple[Option, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Their options that must have this value, also where config.json leaves them out."""
    unread: frozenset[str] = frozenset()
    """Their options that do not change what a trained model computes. Any others are refused."""
    ours: Mapping[str, Any] = field(default_factory=dict)
    """Our options that have this value in every model of the family, beyond our defaults."""
    layer_types: Mapping[str, Blocks]
    names: Names
    mixers: Mapping[str, tuple[Part, ...]]
    """Tensors of each kind of mixer."""
    depths: DepthNames | None = None
    """For a family with layers that predict further tokens; it has one of them at most."""
    shared: SharedBlocks | None = None
    """For a family whose blocks have options; its layers need not be of one length, and its norms are in `sections`."""
    complete: Callable[[TheirConfig], TheirConfig]
    """Brings older spellings and derived options into one form, and adds the layer types."""
    finish: Callable[[TheirConfig], TheirConfig]
    """The inverse of `complete`; raises ConfigError for what transformers would refuse."""
