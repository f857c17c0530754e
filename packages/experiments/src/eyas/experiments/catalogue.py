"""`eyas layers` and `eyas models`: what there is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyas.core.accounting import active_parameters, parameters, state_bytes, tail_parameters, training_flops
from eyas.core.errors import ConfigError
from eyas.core.model import ModelSpec, load_model
from eyas.core.registry import mixers
from eyas.core.schema import dump
from eyas.experiments.conf_tree import conf_folder, mixer_options
from eyas.experiments.model_group import model_group


def print_layers(*, as_json: bool) -> None:
    """Prints every registered mixer: symbol, package, one sentence, options."""
    rows: list[dict[str, Any]] = [
        {
            "kind": entry.kind,
            "symbol": entry.symbol,
            "package": entry.package,
            "summary": entry.summary,
            "options": mixer_options(entry.mixer.Config),
        }
        for entry in mixers().values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    table = Table("mixer", "symbol", "package", "what it is", title="Mixers", title_justify="left")
    for row in rows:
        table.add_row(row["kind"], row["symbol"] or "", row["package"], row["summary"])
    Console(highlight=False).print(table)


def print_models(*, as_json: bool, sequence_length: int) -> None:
    """Prints every model of conf/model: pattern, parameters, FLOPs per token and decoding state at that length."""
    if sequence_length < 1:
        raise ConfigError(f"--sequence-length={sequence_length} must be at least 1")
    rows = [describe(name, spec, sequence_length) for name, spec in models().items()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    title = f"Models (training FLOPs per token and decoding state per sequence at {sequence_length} tokens, bfloat16)"
    table = Table(title=title, title_justify="left")
    for heading in ("model", "pattern", "parameters", "active", "GFLOP", "KV MiB", "state MiB"):
        name = heading in ("model", "pattern")
        table.add_column(heading, justify="left" if name else "right", no_wrap=heading != "pattern")
    for row in rows:
        table.add_row(
            row["name"],
            escape(row["pattern"]),
            f"{row['parameters'] / 1e6:,.1f} M",
            f"{row['active_parameters'] / 1e6:,.1f} M",
            f"{row['training_flops_per_token']['exact'] / 1e9:,.2f}",
            f"{row['kv_bytes'] / 2**20:,.1f}",
            f"{row['state_bytes'] / 2**20:,.1f}",
        )
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table)


def models() -> dict[str, ModelSpec]:
    """Every model of conf/model, by name."""
    names = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
    return {name: load_model(model_group(name)) for name in names}


def describe(name: str, spec: ModelSpec, sequence_length: int) -> dict[str, Any]:
    """What `eyas models` tells of a model. Decoding state is told apart into keys and values, the meta tokens' among
    them, and what does not grow with the text."""
    constant = state_bytes(replace(spec, meta_tokens=0), 0)
    return {
        "name": name,
        "pattern": str(spec.pattern),
        "parameters": parameters(spec),
        "active_parameters": active_parameters(spec),
        "tail_parameters": tail_parameters(spec),
        "sequence_length": sequence_length,
        "training_flops_per_token": {
            convention: training_flops(spec, sequence_length, convention) for convention in ("exact", "megatron")
        },
        "kv_bytes": state_bytes(spec, sequence_length) - constant,
        "state_bytes": constant,
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "embedding_multiplier": spec.embedding_multiplier,
        "lm_head_multiplier": spec.lm_head_multiplier,
        "meta_tokens": spec.meta_tokens,
        "blocks": {block.name: dump(block.options) for block in spec.blocks if block.name},
        "layers": {key: {"kind": layer.kind, **dump(layer)} for key, layer in spec.layers.items()},
    }
