"""What the source says of a dataclass's options: type, default and the text below each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from eyas.core.schema import dump


@dataclass(frozen=True)
class Option:
    """One option of a schema."""

    name: str
    kind: Any
    default: str
    """As YAML writes it; "required" for one that must be given."""
    text: str
    """What the source says of it; empty where it says nothing."""


def options(cls: type) -> list[Option]:
    """The options of a dataclass, in the order of their declaration; those of the task that it is left out."""
    texts, kinds = _texts(cls), get_type_hints(cls)
    return [
        Option(field.name, kinds[field.name], _default(field), texts.get(field.name, ""))
        for field in fields(cls)
        if field.init
    ]


def table(cls: type, path: str = "", open_sizes: frozenset[str] = frozenset()) -> str:
    """A Markdown table of the options; `open_sizes` are those that follow from the model's width."""
    rows = ["| option | type | default | |", "|---|---|---|---|"]
    for option in options(cls):
        name = f"{path}.{option.name}" if path else option.name
        default = "by width" if option.name in open_sizes else option.default
        shown = default if default in ("required", "by width") else f"`{default}`"
        rows.append(f"| `{name}` | {_cell(describe(option.kind))} | {_cell(shown)} | {_cell(option.text)} |")
    return "\n".join(rows) + "\n"


def nested(cls: type) -> dict[str, type]:
    """The dataclasses that options hold, by option."""
    return {option.name: inner for option in options(cls) for inner in _parts(option.kind) if is_dataclass(inner)}


def describe(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in arguments))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (list, tuple):
        inner = [part for part in arguments if part is not ...]
        several = f"{len(inner)} of " if origin is tuple and ... not in arguments and len(inner) > 1 else ""
        return f"list ({several}{describe(inner[0])})" if inner and inner[0] is not Any else "list"
    if origin is dict or is_dataclass(kind):
        return "mapping"
    words = {int: "integer", float: "number", bool: "true, false", str: "text", NoneType: "null", None: "null"}
    return words.get(kind, "any")


def _parts(kind: Any) -> list[Any]:
    return [kind, *(inner for part in get_args(kind) for inner in _parts(part))]


def _default(field: Any) -> str:
    if field.default_factory is not MISSING:
        value = field.default_factory()
    elif field.default is MISSING:
        return "required"
    else:
        value = field.default
    plain = dump(value) if is_dataclass(value) else list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("\n...\n").strip()


@cache
def _texts(cls: type) -> dict[str, str]:
    """The string below each field, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(text.value.split())
    return found


def _cell(text: str) -> str:
    """Text that does not end its cell."""
    return text.replace("|", "\\|")
