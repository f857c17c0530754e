"""The reference of every option of `eyas train`, and of every command, from the schemas and the parser."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from field_docs import nested, options, table

from eyas.core.model import ModelConfig
from eyas.experiments.command_line import build_parser
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.run_config import RunConfig
from eyas.experiments.tasks import KINDS

INTRODUCTION = """\
# Options of eyas train

Every option as its schema declares it; `eyas train --cfg job` prints what a command would run with. `GROUP=NAME`
chooses a file out of conf/GROUP, `GROUP.OPTION=VALUE` sets one option. Whatever is unknown, or has the wrong type, is
refused. Each mixer's options are on [its page](mixers/index.md); they stand below `model.layers.NAME`.
"""


def option_page() -> str:
    """Every option by group, with type, default and text, and the files that each group can be chosen from."""
    groups = nested(RunConfig)
    loose = [option.name for option in options(RunConfig) if option.name not in groups]
    parts = [
        INTRODUCTION,
        "## Of the run\n",
        _rows(RunConfig, [name for name in loose if name not in ("model", "task")]),
    ]
    parts += [_group("model", ModelConfig), _tasks()]
    parts += [_group(name, groups[name]) for name in groups]
    return "\n".join(parts)


def command_page() -> str:
    """Every command and its options, as --help tells them."""
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = ["# Commands\n"]
    for name, command in commands.choices.items():
        command.formatter_class = _wide(command.formatter_class)
        parts.append(f"## eyas {name}\n\n```text\n{command.format_help().strip()}\n```\n")
    return "\n".join(parts)


def _group(name: str, schema: type) -> str:
    parts = [f"## {name}\n", f"{_first(schema)}\n", _files(name), table(schema, name)]
    for option, inner in nested(schema).items():
        parts += [f"### {name}.{option}\n", f"{_first(inner)}\n", table(inner)]
    return "\n".join(parts)


def _tasks() -> str:
    parts = ["## task\n", "What is learnt; [tasks](../tasks.md) explains them.\n", _files("task")]
    for kind, task in KINDS.items():
        parts += [f"### task={kind}\n", f"{_first(task)}\n", table(task, "task")]
    return "\n".join(parts)


def _rows(schema: type, names: list[str]) -> str:
    """The table with some of the options alone."""
    header, rule, *rows = table(schema).splitlines()
    order = [field.name for field in fields(schema) if field.init]
    return "\n".join([header, rule, *(rows[order.index(name)] for name in names)]) + "\n"


def _files(group: str) -> str:
    """The group's files, with what each says of itself."""
    found = sorted((conf_folder() / group).glob("*.yaml"))
    if not found:
        return ""
    lines = [f"- `{group}={path.stem}`{_says(path)}" for path in found]
    return "\n".join([f'??? note "{len(found)} files to choose from"\n', *(f"    {line}" for line in lines), ""])


def _says(path: Path) -> str:
    """The file's leading comment."""
    words = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").strip())
    text = " ".join(word for word in words if not word.startswith("@package"))
    return f": {text}" if text else ""


def _first(schema: type) -> str:
    return (schema.__doc__ or "").strip().partition("\n")[0]


def _wide(formatter: Any) -> Any:
    """The formatter at the width of a page."""
    return lambda prog: formatter(prog, width=110, max_help_position=32)
