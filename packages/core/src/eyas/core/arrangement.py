"""How blocks follow each other: a pattern's items as blocks, and what pipeline stages may not cut through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyas.core.block_config import BlockConfig, BlockSpec
from eyas.core.errors import ConfigError, LayoutError
from eyas.core.mixer_config import MixerConfig
from eyas.core.nearest import unknown_name
from eyas.core.pattern import Pattern
from eyas.core.weights import Weight


def arrange(
    pattern: Pattern, blocks: Mapping[str, BlockConfig], layers: Mapping[str, MixerConfig], hidden_size: int
) -> tuple[BlockSpec, ...]:
    """The blocks of a pattern, whose items are layers side by side or one block's name. Raises ConfigError where the
    blocks do not fit their layers or each other."""
    for name, options in blocks.items():
        check_block(name, options, layers, hidden_size)
    for name in (name for depth in pattern.tail for item in depth for name in item if name in blocks):
        raise ConfigError(f"pattern: block {name!r} cannot stand in the tail; name its layers there")
    arranged = tuple(_block(item, blocks) for item in pattern.blocks)
    check_streams(arranged)
    check_lending(arranged, pattern, layers)
    return arranged


def pairs_before(blocks: Sequence[BlockSpec]) -> list[int]:
    """For each block the number of blocks of two branches that stand before it."""
    return [sum(block.pairs for block in blocks[:index]) for index in range(len(blocks))]


def fitted(layers: Mapping[str, MixerConfig], blocks: Sequence[BlockSpec], hidden_size: int) -> dict[str, MixerConfig]:
    """The layers with the input widths of their blocks. Raises ConfigError for a layer that cannot have its own."""
    widths = {layer: block.input_width(hidden_size) for block in blocks for layer in block.layers}
    wide = {name: layers[name].with_input_width(width) for name, width in widths.items() if width != hidden_size}
    given = {**layers, **wide}
    for block in blocks:
        for layer in block.layers:
            reads, width = given[layer].input_width(hidden_size), block.input_width(hidden_size)
            if reads != width:
                raise ConfigError(
                    f"layers.{layer} ({layers[layer].kind}) reads a width of {reads}, but block "
                    f"{block.name or '+'.join(block.layers)} gives {width}; change what the block reads, or choose a "
                    "mixer with an input_size and leave that open"
                )
    return given


def check_streams(arranged: Sequence[BlockSpec]) -> None:
    """Raises ConfigError where a block reads aside what no block wrote, or no block reads what was written."""
    aside = False
    for block in arranged:
        if block.options.reads == "aside" and not aside:
            raise ConfigError(f"blocks.{block.name} reads aside, but the block before it does not write aside")
        aside = block.options.writes == "aside"
    if aside:
        raise ConfigError(f"blocks.{arranged[-1].name} writes aside, but no block follows that reads it")


def check_lending(arranged: Sequence[BlockSpec], pattern: Pattern, layers: Mapping[str, MixerConfig]) -> None:
    """Raises ConfigError where a layer borrows what no block before it lends, or what does not suit it."""
    lent: dict[str, MixerConfig] = {}
    for block in arranged:
        for name in block.layers:
            wanted = layers[name].borrows
            if wanted is not None and wanted not in lent:
                raise ConfigError(
                    f"layers.{name} borrows {wanted!r}, which no block before it lends; lent there: "
                    f"{', '.join(map(repr, lent)) or 'nothing'}"
                )
            if wanted is not None:
                _check_lender(name, layers[name], lent[wanted])
        lent |= {str(layers[name].lends): layers[name] for name in block.layers if layers[name].lends is not None}
    for name in (name for depth in pattern.tail for item in depth for name in item if layers[name].borrows is not None):
        raise ConfigError(f"pattern: layer {name!r} borrows from another block and cannot stand in the tail")


def _check_lender(name: str, borrower: MixerConfig, lender: MixerConfig) -> None:
    try:
        borrower.check_lender(lender)
    except ConfigError as error:
        raise ConfigError(f"layers.{name}.{error}") from error


def check_block(name: str, options: BlockConfig, layers: Mapping[str, MixerConfig], hidden_size: int) -> None:
    """Raises ConfigError where a named block names layers or weights that do not exist."""
    if name in layers:
        raise ConfigError(f"blocks.{name} has the name of a layer; give one of them another name")
    names = options.layers.split("+")
    for layer in names:
        if layer not in layers:
            raise ConfigError(f"blocks.{name}.layers: {unknown_name('layer', layer, layers)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"blocks.{name}.layers={options.layers} names a layer twice; give the second a name")
    for layer, groups in options.adapters.items():
        if layer not in names:
            raise ConfigError(f"blocks.{name}.adapters: {unknown_name('layer', layer, names)}")
        path, adapted = f"blocks.{name}.adapters.{layer}", [weight for group in groups for weight in group.split("+")]
        if layers[layer].owns_tokens:
            raise ConfigError(f"{path}: {layers[layer].kind} cannot be adapted; leave it out")
        if len(set(adapted)) < len(adapted):
            raise ConfigError(f"{path} names a matrix twice; each has one adapter")
        for group in groups:
            check_adapted(group.split("+"), layers[layer].weights(hidden_size), path)


def check_adapted(names: Sequence[str], weights: Mapping[str, Weight], path: str) -> None:
    """Raises ConfigError where the named weights are not matrices that read the same input."""
    matrices = {name: weight for name, weight in weights.items() if len(weight.shape) == 2}
    for name in names:
        if name not in matrices:
            raise ConfigError(f"{path}: {unknown_name('matrix', name, matrices)}")
    inputs = {(matrices[name].shape[1], matrices[name].dim) for name in names}
    if len(inputs) > 1 or (len(names) > 1 and matrices[names[0]].dim == 1):
        raise ConfigError(f"{path}: {'+'.join(names)} do not read the same input; list them one by one")


def check_stages(blocks: Sequence[BlockSpec], stages: Sequence[range], layers: Mapping[str, MixerConfig]) -> None:
    """Raises LayoutError where pipeline stages, which send each other the residual stream alone, cut through a shared
    block or through what a block reads or borrows."""
    for name in dict.fromkeys(block.name for block in blocks if block.options.shared):
        used = [stage for stage, run in enumerate(stages) if name in {blocks[index].name for index in run}]
        if len(used) > 1:
            raise LayoutError(
                f"{len(stages)} pipeline stages: shared block {name!r} stands on stages {', '.join(map(str, used))}, "
                "whose copies would drift apart; cut with | or layout.stages so that one stage has it, or set "
                "layout.pipeline=1"
            )
    for stage, run in enumerate(stages[1:], 1):
        lent: set[str | None] = set()
        for index in run:
            for name in blocks[index].layers:
                wanted = layers[name].borrows
                if wanted is not None and wanted not in lent:
                    raise LayoutError(
                        f"{len(stages)} pipeline stages: layer {name!r} borrows {wanted!r} on stage {stage}, "
                        "which is lent on an earlier one; cut before the lender with | or layout.stages, or set "
                        "layout.pipeline=1"
                    )
            lent |= {layers[name].lends for name in blocks[index].layers}
            if blocks[index].options.reads == "stream_and_embedding":
                raise LayoutError(
                    f"{len(stages)} pipeline stages: block {blocks[index].name!r} reads the embeddings, which only "
                    f"stage 0 has, but stands on stage {stage}; cut behind it with | or layout.stages, or set "
                    "layout.pipeline=1"
                )
        if blocks[run.start - 1].options.writes == "aside":
            raise LayoutError(
                f"{len(stages)} pipeline stages: stage {stage} begins behind block {blocks[run.start - 1].name!r}, "
                "which writes aside; cut before it or one block later with | or layout.stages"
            )


def allowed_cuts(blocks: Sequence[BlockSpec], layers: Mapping[str, MixerConfig]) -> list[int]:
    """Numbers of blocks before each place where `check_stages` allows a cut; each is allowed or not by itself."""

    def allowed(cut: int) -> bool:
        try:
            check_stages(blocks, [range(cut), range(cut, len(blocks))], layers)
        except LayoutError:
            return False
        return True

    return [cut for cut in range(1, len(blocks)) if allowed(cut)]


def plain_block(layers: tuple[str, ...]) -> BlockSpec:
    """The block of these layers side by side, without options."""
    return BlockSpec(layers, BlockConfig(layers="+".join(layers)))


def _block(item: tuple[str, ...], blocks: Mapping[str, BlockConfig]) -> BlockSpec:
    named = [name for name in item if name in blocks]
    if not named:
        return plain_block(item)
    if len(item) > 1:
        raise ConfigError(f"pattern: {'+'.join(item)}: {named[0]!r} is a whole block and stands by itself")
    options = blocks[named[0]]
    return BlockSpec(tuple(options.layers.split("+")), options, named[0])
