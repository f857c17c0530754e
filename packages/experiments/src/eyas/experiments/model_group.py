"""The `model` group of a configuration, read from conf/ without Hydra, whose composition takes a hundred times as long.

Knows what the files under conf/model and conf/layer use of Hydra: a defaults list of files beside them and of absolute
choices placed by `@`, with `_self_` among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import yaml

from eyas.core.errors import ConfigError
from eyas.core.model import ModelConfig
from eyas.core.nearest import unknown_name
from eyas.core.registry import mixers
from eyas.core.schema import defaults
from eyas.experiments.conf_tree import conf_folder, mixer_options
from eyas.experiments.data_config import DataConfig

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def model_group(name: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plain data of conf/model/<name>.yaml; what refers to the data follows `data`, or the data's defaults. Raises
    ConfigError where there is no such file."""
    if not (conf_folder() / f"model/{name}.yaml").exists():
        raise ConfigError(unknown_name("model", name, model_names()))
    group = _read(f"model/{name}")
    options = defaults(DataConfig) if data is None else data
    return {option: _referred(value, f"model/{name}.yaml", options) for option, value in group.items()}


def model_names() -> list[str]:
    """What conf/model has, those of single experiments in folders of their own."""
    folder = conf_folder() / "model"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _referred(value: Any, file: str, data: Mapping[str, Any]) -> Any:
    """The value that `${data.option}` stands for; any other value itself. OmegaConf takes as long for it as all else
    that a table of models needs."""
    if "${" not in str(value):
        return value
    reference = re.fullmatch(r"\$\{data\.(\w+)\}", str(value))
    if reference is None:
        raise ConfigError(f"{file}: {value!r} must be plain, or one whole ${{data.option}}")
    return data[reference[1]]


def _read(choice: str) -> dict[str, Any]:
    """A choice of a group, "layer/falcon_h1_7b/ssm" say, with all that its defaults list brings."""
    if choice in _schemas():
        return deepcopy(_schemas()[choice])
    with (conf_folder() / f"{choice}.yaml").open(encoding="utf-8") as stream:
        own: dict[str, Any] = yaml.load(stream, LOADER)
    merged: dict[str, Any] = {}
    for item in own.pop("defaults", ["_self_"]):
        if item == "_self_":
            _merge(merged, own)
        else:
            place, brought = placed_choice(item, choice.rpartition("/")[0])
            _merge(merged, _nested(place, _read(brought)))
    return merged


def placed_choice(item: str | Mapping[str, str], beside: str) -> tuple[str, str]:
    """Where an entry of a defaults list goes, and the choice that it names: `/layer@layers.ssm: tiny/ssm`, or `tiny`, a
    file beside the one that has the list, in the group `beside`."""
    if isinstance(item, str) and "/" not in item and "@" not in item:
        return "_here_", f"{beside}/{item}"
    group, _, place = (item if isinstance(item, str) else next(iter(item))).partition("@")
    if not group.startswith("/") or not place:
        raise ConfigError(f"defaults entry {item!r} must be absolute and placed, as /layer@layers.ssm: name")
    choice = group if isinstance(item, str) else f"{group}/{item[f'{group}@{place}']}"
    return place, choice.removeprefix("/")


def _nested(place: str, data: dict[str, Any]) -> dict[str, Any]:
    for key in reversed([] if place == "_here_" else place.split(".")):
        data = {key: data}
    return data


def _merge(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    """The choices that are no files: every option of the model and of the registered mixers."""
    table: dict[str, dict[str, Any]] = {"schema/model": {**defaults(ModelConfig), "layers": {}}}
    return table | {
        f"layer/{kind}": {"kind": kind, **mixer_options(entry.mixer.Config)} for kind, entry in mixers().items()
    }
