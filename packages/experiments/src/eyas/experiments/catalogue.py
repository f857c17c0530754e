"""`eyas layers` and `eyas models`: what there is."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyas.core.accounting import parameters, state_bytes, tail_parameters, training_flops
from eyas.core.model import ModelSpec, load_model
from eyas.core.registry import mixers
from eyas.core.schema import dump
from eyas.experiments.compose import conf_folder, mixer_options
from eyas.experiments.model_group import model_group

SEQUENCE = 4096
"""Tokens at which FLOPs and state are told."""


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


def print_models(*, as_json: bool) -> None:
    """Prints every model of conf/model: pattern, parameters, training FLOPs and decoding state."""
    rows = [describe(name, spec) for name, spec in models().items()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"Models (training FLOPs and state at {SEQUENCE} tokens)", title_justify="left")
    for heading, justify in (
        ("model", "left"),
        ("pattern", "left"),
        ("parameters", "right"),
        ("GFLOP / token", "right"),
        ("state MiB", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=heading == "model")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(
            row["name"],
            escape(row["pattern"]),
            f"{row['parameters']:,}",
            f"{row['training_flops_per_token']['exact'] / 1e9:,.2f}",
            f"{row['state_bytes'] / 2**20:,.1f}",
        )
    Console(highlight=False).print(table)


def models() -> dict[str, ModelSpec]:
    """Every model of conf/model, by name."""
    names = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
    return {name: load_model(model_group(name)) for name in names}


def describe(name: str, spec: ModelSpec) -> dict[str, Any]:
    """What `eyas models` tells of a model."""
    return {
        "name": name,
        "pattern": str(spec.pattern),
        "parameters": parameters(spec),
        "tail_parameters": tail_parameters(spec),
        "training_flops_per_token": {
            convention: training_flops(spec, SEQUENCE, convention) for convention in ("exact", "megatron")
        },
        "state_bytes": state_bytes(spec, SEQUENCE),
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "embedding_multiplier": spec.embedding_multiplier,
        "lm_head_multiplier": spec.lm_head_multiplier,
        "meta_tokens": spec.meta_tokens,
        "blocks": {block.name: dump(block.options) for block in spec.blocks if block.name},
        "layers": {key: {"kind": layer.kind, **dump(layer)} for key, layer in spec.layers.items()},
    }
