"""Zamba2's shared transformers as named blocks: how a config.json arranges them, and where their tensors are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from eyas.core.block_config import BlockConfig, BlockSpec
from eyas.core.errors import ConfigError
from eyas.core.model import ModelSpec
from eyas.layers.hf import LAYER_NAMES, LAYER_TYPES, Family, Part, Section, TheirConfig
from eyas.layers.hf_tables import divisor
from eyas.layers.hf_tensors import mixer_section, norm_section

SSM, ATTENTION, MLP = (LAYER_NAMES[kind] for kind in ("mamba2", "attention", "mlp"))
HYBRID = "hybrid"
NORMS = {"mamba2": "input_layernorm", "attention": "input_layernorm", "mlp": "pre_ff_layernorm"}


def arrange(config: TheirConfig) -> tuple[list[str], dict[str, Any]]:
    """The pattern and its named blocks. A hybrid layer is three: a shared transformer's attention and MLP, both aside,
    then Mamba-2; the transformers take turns."""
    pattern: list[str] = []
    blocks: dict[str, Any] = {}
    uses = 0
    for layer_type in config[LAYER_TYPES]:
        if layer_type == HYBRID:
            transformer = transformer_blocks(uses % divisor(config, "num_mem_blocks", 1), config)
            pattern += transformer
            blocks |= transformer
            uses += 1
        pattern.append(SSM)
    return pattern, blocks


def transformer_blocks(number: int, config: TheirConfig) -> dict[str, Any]:
    """The two blocks of one shared transformer."""
    rank = config.get("adapter_rank", 128)
    aside = {"shared": True, "writes": "aside"}
    adapted = {"adapter_rank": rank, "adapters": {ATTENTION: ["q", "k", "v"]}}
    return {
        f"attend{number}": {
            "layers": ATTENTION,
            "reads": "stream_and_embedding",
            **aside,
            **(adapted if config.get("use_shared_attention_adapter", False) else {}),
        },
        f"think{number}": {
            "layers": MLP,
            "reads": "aside",
            "projection": True,
            "adapter_rank": rank,
            "adapters": {MLP: ["gate+up"]},
            **aside,
        },
    }


def options(spec: ModelSpec, layer_types: list[str]) -> TheirConfig:
    """The inverse of `arrange`: their options for a model of these layers. Raises ConfigError for other blocks."""
    named = [block for block in spec.blocks if block.name is not None]
    config: TheirConfig = {
        "num_mem_blocks": max(1, len({block.name for block in named if kind_of(block, spec) == "attention"}))
    }
    for block in named:
        if kind_of(block, spec) == "attention":
            config["use_shared_attention_adapter"] = bool(block.options.adapters)
        else:
            config["adapter_rank"] = block.options.adapter_rank
    check_blocks(spec, *arrange(config | {LAYER_TYPES: layer_types}))
    return config


def check_blocks(spec: ModelSpec, pattern: list[str], blocks: Mapping[str, Any]) -> None:
    """Raises ConfigError naming a block that differs from the one it has to be, whatever either is called."""
    theirs: dict[str | None, str] = {}
    for block, name in zip(spec.blocks, pattern, strict=True):
        expected = BlockConfig(**blocks.get(name, {"layers": name}))
        if theirs.setdefault(block.name or name, name) != name or canonical(block, spec) != expected:
            raise ConfigError(f"model.blocks.{block.name or name} has to be {expected} in a zamba2")
    if len(set(theirs.values())) < len(theirs):
        raise ConfigError(f"model.blocks: {', '.join(map(str, theirs))} do not take turns as a zamba2's do")


def canonical(block: BlockSpec, spec: ModelSpec) -> BlockConfig:
    """A block's options with the names that imported layers have."""
    names = {name: LAYER_NAMES.get(spec.layers[name].kind, name) for name in block.layers}
    adapters = {names[layer]: groups for layer, groups in block.options.adapters.items()}
    return replace(block.options, layers="+".join(names.values()), adapters=adapters)


def sections(family: Family, spec: ModelSpec) -> Iterator[Section]:
    """Where the blocks have their tensors: a shared transformer in the layer that uses it first, with the adapters of
    all its places; what else a place adds in the place's own layer."""
    layer, uses, width = 0, 0, spec.hidden_size
    homes: dict[str, int] = {}
    for index, block in enumerate(spec.blocks):
        (name,), kind = block.layers, kind_of(block, spec)
        here = f"{family.names.layers}.{layer}."
        theirs, ours, stored = here, f"blocks.{index}.", True
        if block.name is not None:
            home = homes.setdefault(block.name, layer)
            theirs, ours = f"{family.names.layers}.{home}.shared_transformer.", f"shared.{block.name}."
            stored = home == layer
            for adapted, weights in block.adapters(spec.layers, width).items():
                shapes = {weight: declared.shape for weight, declared in weights.items()}
                parts = tuple(part for part in adapter_parts(kind, uses) if part.ours[0] in shapes)
                yield Section(theirs, f"blocks.{index}.adapters.{adapted}.", parts, shapes)
        elif index and spec.blocks[index - 1].name is not None:
            theirs = f"{here}mamba_decoder."
        if stored:
            yield norm_section(f"{theirs}{NORMS[kind]}.", f"{ours}norm.", block.input_width(width))
            yield mixer_section(family, spec.layers[name], width, theirs, f"{ours}branches.{name}.")
        if block.options.projection:
            own = Part("linear.weight", ("projection",))
            yield Section(here, f"blocks.{index}.", (own,), {"projection": (width, width)})
        uses += kind == "mlp"
        layer += kind == "mamba2"


def adapter_parts(kind: str, use: int) -> list[Part]:
    """The adapters of one use of a transformer, numbered through all of them."""
    if kind == "mlp":
        names = f"feed_forward.gate_up_proj_adapter_list.{use}"
        return [Part(f"{names}.0.weight", ("A_gate_up",)), Part(f"{names}.1.weight", ("B_gate", "B_up"))]
    return [
        Part(f"self_attn.linear_{name}_adapter_list.{use}.{place}.weight", (f"{matrix}_{name}",))
        for name in "qkv"
        for place, matrix in enumerate("AB")
    ]


def kind_of(block: BlockSpec, spec: ModelSpec) -> str:
    """The kind of a block's one layer."""
    return spec.layers[block.layers[0]].kind
