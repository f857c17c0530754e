"""A config.json of Hugging Face's to our `model` group and back, by a family's table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eyas.core.block_config import BlockConfig, BlockSpec
from eyas.core.errors import ConfigError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelConfig, ModelSpec
from eyas.core.pattern import Pattern
from eyas.core.registry import mixer
from eyas.core.schema import REQUIRED, defaults, dump
from eyas.layers.hf import DEPTH_TYPE, LAYER_NAMES, LAYER_TYPES, Blocks, Family, Option

EVERYWHERE = frozenset({
    "architectures", "model_type", "transformers_version", "_name_or_path", "dtype", "torch_dtype",
    "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "max_position_embeddings", "num_logits_to_keep",
    "_attn_implementation_autoset",
})  # fmt: skip
"""Their options that change nothing in what a model computes, whatever the family."""
REMOTE_CODE = "auto_map"
"""Says which code beside the weights computes the model, for whoever trusts that; the family's own is meant here."""
WITHOUT_EFFECT = frozenset({
    "kernel", "chunk_size", "time_step_min", "time_step_max", "time_step_floor", "mtp_loss_weight", "mtp_repeated",
    "balance_loss", "sequence_balance_loss", "z_loss", "weigh_inside", "drop_policy", "hidden_std", "hidden_rate",
    "dropout",
})  # fmt: skip
"""Our options that decide how, or from where, a model is trained, and not what a trained one computes."""
NO_OPTIONS = frozenset({"name", "layers", "pattern", "blocks", "depths"})
"""What a model has besides options: its arrangement, which types of layers express."""


def model_data(family: Family, config: Mapping[str, Any], depths: int = 0) -> dict[str, Any]:
    """The `model` group for a config.json, with so many layers that predict further tokens. Raises ConfigError naming
    an option that is unknown or cannot be kept to."""
    if depths > 1 and family.depths is not None:
        raise ConfigError(
            f"config.json: {family.depths.option}={depths} is not supported; none is published with more than one"
        )
    given = family.complete(flat({name: value for name, value in config.items() if name != REMOTE_CODE}))
    for key, value in family.fixed.items():
        if given.get(key, value) != value:
            raise ConfigError(
                f"config.json: {key}={given[key]!r} is not supported; {family.model_type} is read with {key}={value!r}"
            )
    read = {option.theirs for option in family.options} | family.fixed.keys() | {LAYER_TYPES, DEPTH_TYPE}
    for key in sorted(given.keys() - read - family.unread - EVERYWHERE):
        raise ConfigError(f"config.json: {key}={given[key]!r} is no option of {family.model_type} that Eyas knows")
    blocks = tuple(block for kind in given[LAYER_TYPES] for block in blocks_of(family, kind))
    tail = [blocks_of(family, given[DEPTH_TYPE]) for _ in range(depths)]
    kinds = {kind: {"kind": kind} for layer in (blocks, *tail) for block in layer for kind in block}
    values = {path: value for path, value in family.ours.items() if wanted(path, kinds)}
    for option in family.options:
        paths = [path for path in option.ours if wanted(path, kinds)]
        if paths:
            values |= dict.fromkeys(paths, their_value(option, given))
    data: dict[str, Any] = {"name": family.model_type}
    for path, value in values.items():
        kind, _, name = path.rpartition(".")
        (kinds[kind] if kind else data)[name] = value
    data["layers"] = {layer_name(kind): options for kind, options in kinds.items()}
    if family.shared is None:
        data["pattern"] = str(Pattern(named(blocks), tail=tuple(map(named, tail))))
    else:
        names, data["blocks"] = family.shared.arrange(given)
        data["pattern"] = str(Pattern(tuple((name,) for name in names)))
    return data


def hf_config(family: Family, spec: ModelSpec) -> dict[str, Any]:
    """The config.json for a model. Raises ConfigError naming what the family cannot express."""
    mixers = mixers_by_kind(family, spec)
    types, tail = types_of_layers(family, spec), types_of_depths(family, spec)
    values = our_values(spec, mixers)
    config: dict[str, Any] = {}
    for option in family.options:
        found = {path: values.pop(path) for path in option.ours if path in values}
        if not found:
            continue
        first, *others = found
        for path in others:
            if found[path] != found[first]:
                raise ConfigError(
                    f"{first}={found[first]} and {path}={found[path]} differ; {family.model_type} has one "
                    f"{option.theirs} for both"
                )
        config[option.theirs] = option.to_theirs(found[first])
    expected = {**our_defaults(mixers), **family.ours}
    for path, value in values.items():
        if value != canonical(path, expected.get(path)):
            raise ConfigError(f"{path}={value} cannot be expressed by {family.model_type}")
    config |= family.fixed
    if family.shared is not None:
        config |= family.shared.options(spec, types)
    config[LAYER_TYPES] = types
    if family.depths is not None:
        config |= {family.depths.option: len(tail), DEPTH_TYPE: tail[0] if tail else None}
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **nested(family.finish(config)),
    }


def their_value(option: Option, given: Mapping[str, Any]) -> Any:
    """What the configuration says, in our terms."""
    value = given.get(option.theirs, option.default)
    if value == REQUIRED:
        raise ConfigError(f"config.json: {option.theirs} is missing")
    return option.to_ours(value)


def blocks_of(family: Family, layer_type: str) -> Blocks:
    """The blocks that a layer of theirs makes."""
    if layer_type not in family.layer_types:
        known = ", ".join(family.layer_types)
        raise ConfigError(
            f"config.json: layers of type {layer_type!r} are not supported; {family.model_type} has {known}"
        )
    return family.layer_types[layer_type]


def types_of_layers(family: Family, spec: ModelSpec) -> list[str]:
    """The type of each of their layers that our pattern makes. Raises ConfigError where it makes none."""
    for block in spec.blocks if family.shared is None else ():
        if block.options != BlockConfig(layers=block.options.layers):
            raise ConfigError(f"model.blocks.{block.name} has options, which {family.model_type} has not")
    return types_of_blocks(family, spec, spec.blocks)


def types_of_depths(family: Family, spec: ModelSpec) -> list[str]:
    """The same of the layers that predict further tokens."""
    if spec.depths and family.depths is None:
        raise ConfigError(f"model.pattern has a tail after '/', which {family.model_type} has not")
    types = [kind for depth in spec.depths for kind in types_of_blocks(family, spec, depth)]
    if len(types) > 1:
        raise ConfigError(f"model.pattern: the tail after '/' is {len(types)} layers, and {family.model_type} has one")
    return types


def types_of_blocks(family: Family, spec: ModelSpec, standing: Sequence[BlockSpec]) -> list[str]:
    """The type of each layer of theirs that these blocks make."""
    types = {tuple(tuple(sorted(block)) for block in blocks): name for name, blocks in family.layer_types.items()}
    sizes = sorted({len(layer) for layer in types}, reverse=True)
    blocks = [tuple(sorted(spec.layers[name].kind for name in block.layers)) for block in standing]
    layers: list[str] = []
    start = 0
    while start < len(blocks):
        ahead = [tuple(blocks[start : start + size]) for size in sizes]
        layer = next((layer for layer in ahead if layer in types), None)
        if layer is None:
            choices = " or ".join(f"[{', '.join(map('+'.join, choice))}]" for choice in family.layer_types.values())
            raise ConfigError(
                f"model.pattern: blocks from {start} on are [{', '.join(map('+'.join, ahead[0]))}], "
                f"but a layer of {family.model_type} is {choices}"
            )
        layers.append(types[layer])
        start += len(layer)
    return layers


def mixers_by_kind(family: Family, spec: ModelSpec) -> dict[str, MixerConfig]:
    """The options of each kind of mixer. Raises ConfigError where a kind is used with two sets of options."""
    found: dict[str, tuple[str, MixerConfig]] = {}
    for name in dict.fromkeys(name for block in spec.all_blocks for name in block.layers):
        layer = spec.layers[name]
        first, known = found.setdefault(layer.kind, (name, layer))
        if known != layer:
            raise ConfigError(
                f"model.layers.{first} and {name} are {layer.kind} layers with different options; "
                f"{family.model_type} has one kind of them"
            )
    return {kind: layer for kind, (_, layer) in found.items()}


def our_values(spec: ModelSpec, mixers: Mapping[str, MixerConfig]) -> dict[str, Any]:
    """Every option of ours that decides what the model computes, by path."""
    outer = {name: value for name, value in dump(spec).items() if name not in NO_OPTIONS}
    values = outer | {f"{kind}.{name}": value for kind, layer in mixers.items() for name, value in dump(layer).items()}
    return {
        path: canonical(path, value) for path, value in values.items() if path.rpartition(".")[2] not in WITHOUT_EFFECT
    }


def our_defaults(mixers: Mapping[str, MixerConfig]) -> dict[str, Any]:
    """What options have where nobody set them."""
    values = dict(defaults(ModelConfig))
    for kind in mixers:
        values |= {f"{kind}.{name}": value for name, value in defaults(mixer(kind).mixer.Config).items()}
    return values


def canonical(path: str, value: Any) -> Any:
    """One form for what means the same: a multiplier that is not set is one, and without meta tokens none are seen."""
    if path.endswith("multiplier"):
        return 1.0 if value is None else value
    if path.endswith("multipliers"):
        return [1.0] * 5 if value is None else value
    if path.endswith("sink_tokens"):
        return 0 if value is None else value
    return value


def named(blocks: Blocks) -> Blocks:
    """Blocks of kinds as blocks of an imported model's layers."""
    return tuple(tuple(map(layer_name, block)) for block in blocks)


def layer_name(kind: str) -> str:
    """What an imported layer of this kind is called."""
    return LAYER_NAMES.get(kind, kind)


def wanted(path: str, kinds: Iterable[str]) -> bool:
    """Whether an option belongs to the model itself or to a kind of mixer that it has."""
    kind, _, _ = path.rpartition(".")
    return not kind or kind in kinds


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        outer, _, inner = key.rpartition(".")
        (found.setdefault(outer, {}) if outer else found)[inner] = value
    return found


def from_json(text: str) -> dict[str, Any]:
    """Reads a config.json; infinity is an object of its own in it. Raises ConfigError for damaged text."""

    def decoded(item: dict[str, Any]) -> Any:
        return float(item["__float__"]) if item.keys() == {"__float__"} else item

    try:
        config = json.loads(text, object_hook=decoded)
    except ValueError as error:
        raise ConfigError(f"config.json is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError("config.json is damaged: it holds no options")
    return config


def to_json(config: Mapping[str, Any]) -> str:
    """The inverse of `from_json`."""

    def encoded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: encoded(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [encoded(item) for item in value]
        return {"__float__": "Infinity"} if value == float("inf") else value

    return json.dumps(encoded(config), indent=2, allow_nan=False) + "\n"
