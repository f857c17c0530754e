"""Plain data, from YAML or the command line, to typed frozen dataclasses and back; strict, each error with its path."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name

REQUIRED = "???"
"""Stands in plain data for a value that the user must give (OmegaConf's mark)."""

T = TypeVar("T")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SCALARS = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def load(cls: type[T], data: object, path: str = "") -> T:
    """An instance of the dataclass `cls` from nested dicts and lists, whose place in the configuration is `path`.

    Types are kept to: only a float also takes an integer, or text such as "1e-4", which YAML reads as text. Raises
    ConfigError in one line. An error from a class's own checks gets the path in front unless it begins with it: as
    `path.option...` where it begins with an option's name, as `path: ...` otherwise.
    """
    loaded = _convert(cls, data, path)
    assert isinstance(loaded, cls)
    return loaded


def dump(instance: object) -> dict[str, Any]:
    """The inverse of `load`: plain data, with lists for tuples (which an option of type Any does not turn back)."""
    plain = _plain(instance)
    assert isinstance(plain, dict)
    return plain


def defaults(cls: type) -> dict[str, Any]:
    """A dataclass's options with their defaults as plain data, and `???` where one must be given."""
    return {name: _plain(_default(option)) for name, option in _options(cls).items()}


def _options(cls: type) -> dict[str, Field[Any]]:
    return {option.name: option for option in fields(cls) if option.init}


def _default(option: Field[Any]) -> object:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return REQUIRED if option.default is MISSING else option.default


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _options(type(value))}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _convert(kind: Any, data: object, path: str) -> object:
    """`data` as an instance of the type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(data, str) and data == REQUIRED:
        raise ConfigError(f"{_place(path)}: a value is required; give {_describe(kind)}")
    if origin in (Union, UnionType):
        return _convert_to_one_of(kind, data, path)
    if not _accepts(kind, data, exactly=False):
        raise ConfigError(f"{_place(path)}: expected {_describe(kind)}, got {_show(data)}")
    if kind is float:
        return _number(data, path)
    if is_dataclass(kind):
        assert isinstance(data, Mapping)
        return _build(kind, data, path)
    if (origin or kind) in (dict, Mapping) and arguments:
        assert isinstance(data, Mapping)
        return {key: _convert(arguments[1], item, _join(path, key)) for key, item in data.items()}
    if (origin or kind) in (list, tuple, Sequence):
        assert isinstance(data, (list, tuple))
        items = [_convert(_item_kind(kind, index), item, f"{path}[{index}]") for index, item in enumerate(data)]
        return items if (origin or kind) is list else tuple(items)
    return data


def _build(cls: Any, data: Mapping[Any, object], path: str) -> object:
    """An instance of a dataclass, all its options converted."""
    options, kinds = _options(cls), _kinds(cls)
    for key in data:
        if key not in options:
            raise ConfigError(f"{_place(path)}: {unknown_name('option', str(key), options)}")
    for name, option in options.items():
        if name not in data and _required(option):
            raise ConfigError(f"{_place(_join(path, name))}: a value is required; give {_describe(kinds[name])}")
    values = {str(key): _convert(kinds[key], value, _join(path, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        if not path or str(error).startswith(path):
            raise
        begins_with_option = re.split(r"\W", str(error), maxsplit=1)[0] in options
        raise type(error)(f"{path}{'.' if begins_with_option else ': '}{error}") from error


def _convert_to_one_of(union: Any, data: object, path: str) -> object:
    """`data` as the first member of a union that takes it, members that take it without conversion first."""
    members = get_args(union)
    fitting = [member for member in members if _accepts(member, data, exactly=True)]
    fitting = fitting or [member for member in members if _accepts(member, data, exactly=False)]
    if not fitting:
        raise ConfigError(f"{_place(path)}: expected {_describe(union)}, got {_show(data)}")
    for member in fitting[:-1]:
        try:
            return _convert(member, data, path)
        except ConfigError:
            continue
    return _convert(fitting[-1], data, path)


def _accepts(kind: Any, data: object, exactly: bool) -> bool:
    """Whether `data` has the outer shape of `kind`; `exactly` refuses numbers that would have to be converted."""
    origin = get_origin(kind) or kind
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_accepts(member, data, exactly) for member in get_args(kind))
    if origin is Literal:
        return any(type(choice) is type(data) and choice == data for choice in get_args(kind))
    if kind is float and not exactly:
        return type(data) in (int, float) or (isinstance(data, str) and bool(_NUMBER.fullmatch(data)))
    if kind is None:
        return data is None
    if kind in _SCALARS:
        return type(data) is kind
    if is_dataclass(kind) or origin in (dict, Mapping):
        return isinstance(data, Mapping) and all(isinstance(key, str) for key in data)
    if origin in (list, tuple, Sequence):
        length = _fixed_length(kind)
        return isinstance(data, (list, tuple)) and (length is None or len(data) == length)
    raise TypeError(f"a configuration cannot hold {kind!r}")


def _number(data: Any, path: str) -> float:
    try:
        number = float(data)
    except OverflowError:
        number = math.inf
    if math.isinf(number) and not isinstance(data, float):
        raise ConfigError(f"{_place(path)}: {_show(data)} is too large for a number")
    return number


def _fixed_length(kind: Any) -> int | None:
    """Length of a tuple type that names each item, None for lists of any length."""
    arguments = get_args(kind)
    return len(arguments) if get_origin(kind) is tuple and arguments[-1:] != (...,) else None


def _item_kind(kind: Any, index: int) -> Any:
    arguments = get_args(kind) or (Any,)
    return arguments[index] if _fixed_length(kind) is not None else arguments[0]


@cache
def _kinds(cls: type) -> dict[str, Any]:
    """Types of a dataclass's options."""
    return get_type_hints(cls)


def _required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _describe(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_describe(member) for member in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (list, tuple, Sequence):
        if _fixed_length(kind) is not None:
            return f"a list of {len(arguments)} ({', '.join(map(_describe, arguments))})"
        return f"a list (of {_describe(arguments[0])})" if arguments else "a list"
    if is_dataclass(kind) or origin in (dict, Mapping):
        return "a mapping"
    return "any value" if kind is Any else _SCALARS[NoneType if kind is None else kind]


def _show(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _place(path: str) -> str:
    return path or "the configuration"
