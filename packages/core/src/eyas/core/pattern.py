"""The pattern language: layers are named once, a pattern says how they are stacked.

    [ssm+attn, ffn] x36             two blocks, 36 times; `+` puts layers side by side in one block
    ssm, ffn | attn, ffn            `|` is a pipeline cut
    [ssm, ffn] x8 / attn, ffn       `/` begins a depth of the multi-token-prediction tail
    M-M-M*-|M-M-M*-/*-              Megatron-LM's letters, each standing for the layer whose symbol it is

Brackets may nest, commas beside a cut may be left out, and a list of items means the same as the items with commas.
Among the letters, P is Falcon-H1's pair of blocks: M and * side by side, then -.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eyas.core.errors import PatternError
from eyas.core.pattern_grammar import BLOCK_LIMIT, CUT, REPEAT, TAIL, Block, Item, Source, read_letters, read_names

LONGEST_PERIOD = 64
"""The longest period, in blocks, that printing a pattern looks for."""


@dataclass(frozen=True)
class Pattern:
    """A stack of blocks, where it is cut into pipeline stages, and its multi-token-prediction tail."""

    blocks: tuple[Block, ...]
    """Each block is the names of the layers that stand side by side before one residual add."""
    cuts: tuple[int, ...] = ()
    """Indices of the blocks before which a pipeline cut stands."""
    tail: tuple[tuple[Block, ...], ...] = ()
    """The blocks of each depth of the multi-token-prediction tail."""

    def __str__(self) -> str:
        """The pattern in names, repetitions folded; parsing it gives the pattern back."""
        edges = (0, *self.cuts, len(self.blocks))
        stages = [_folded(self.blocks[start:end]) for start, end in pairwise(edges)]
        return f" {TAIL} ".join([f" {CUT} ".join(stages), *map(_folded, self.tail)])

    def shorthand(self, layers: Mapping[str, str | None]) -> str:
        """The pattern in letters, given each layer's symbol. Raises PatternError where a block has no letter."""
        symbols = list(layers.values())
        unclear = [name for name, symbol in layers.items() if symbol is None or symbols.count(symbol) > 1]
        if unclear:
            raise PatternError(f"layer {unclear[0]!r} has no symbol of its own; write the pattern in names")

        def letters(blocks: tuple[Block, ...]) -> str:
            return "".join("+".join(str(layers[name]) for name in block) for block in blocks).replace("M+*-", "P")

        edges = (0, *self.cuts, len(self.blocks))
        stages = [letters(self.blocks[start:end]) for start, end in pairwise(edges)]
        text = TAIL.join([CUT.join(stages), *map(letters, self.tail)])
        if "+" in text:
            raise PatternError("only M+* followed by - has a letter among blocks of several layers; write names")
        return text


def parse_pattern(pattern: str | Sequence[object], layers: Mapping[str, str | None], repeat: int = 1) -> Pattern:
    """Reads a pattern over `layers`, which maps each layer's name to its symbol, or None where it has none.

    `repeat` repeats everything before the tail. A text is shorthand if it has no commas, brackets, `+` or spaces, is
    not itself made of layer names, and holds `*` or `-` or else neither small letters nor digits. Raises PatternError,
    with a caret under the fault.
    """
    for name in layers:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise PatternError(f"layer name {name!r} cannot stand in a pattern; use letters, digits and underscores")
    source = Source(_text(pattern, layers), layers)
    if not source.text:
        raise PatternError("the pattern is empty; give it at least one block")
    once = _assembled(source, read_letters(source) if source.is_shorthand else read_names(source))
    length = len(once.blocks)
    if repeat < 1 or length * repeat > BLOCK_LIMIT:
        raise PatternError(f"repeat={repeat} of a pattern of {length} blocks; a model has 1 to {BLOCK_LIMIT} blocks")
    cuts = tuple(cut + turn * length for turn in range(repeat) for cut in once.cuts)
    return Pattern(once.blocks * repeat, cuts, once.tail)


def _text(pattern: str | Sequence[object], layers: Mapping[str, str | None]) -> str:
    """A pattern given as a (nested) list, as the one text that means the same."""
    if isinstance(pattern, str):
        return re.sub(r"\s", " ", pattern.strip())
    text = ""
    for index, item in enumerate(pattern):
        if not isinstance(item, Sequence):
            raise PatternError(f"pattern item {item!r} is not text; an item is a block such as 'ssm+attn', '|' or '/'")
        piece = _text(item, layers) if isinstance(item, str) else f"[{_text(item, layers)}]"
        repeats = text.endswith("]") and REPEAT.fullmatch(piece) and piece not in layers
        text += (" " if repeats else ", " if index else "") + piece
    return text


def _assembled(source: Source, items: list[Item]) -> Pattern:
    """Sorts items into stages and tail; refuses a cut or a tail that has nothing on one of its sides."""
    parts: list[list[Block]] = [[]]
    cuts: list[int] = []
    previous: Item | None = None
    for item in items:
        if item.mark and (previous is None or previous.mark):
            raise source.fault(f"no block stands before this {item.mark}", item.at)
        if item.mark == CUT and len(parts) > 1:
            raise source.fault("a pipeline cut cannot stand in the tail, which stays on the last stage", item.at)
        if item.mark == CUT:
            cuts.append(len(parts[0]))
        elif item.mark == TAIL:
            parts.append([])
        else:
            parts[-1].append(item.block)
        previous = item
    assert previous is not None
    if previous.mark:
        raise source.fault(f"no block stands after this {previous.mark}", previous.at)
    return Pattern(tuple(parts[0]), tuple(cuts), tuple(map(tuple, parts[1:])))


def _folded(blocks: tuple[Block, ...]) -> str:
    """Blocks as text, each run of a repeated period written once: `[ssm, ffn] x4`."""
    pieces = []
    start = 0
    while start < len(blocks):
        period, turns = max(_periods(blocks, start), key=lambda found: (found[0] * (found[1] - 1), -found[0]))
        if period * (turns - 1) > 1:
            pieces.append(f"[{_folded(blocks[start : start + period])}] x{turns}")
            start += period * turns
        else:
            pieces.append("+".join(blocks[start]))
            start += 1
    return ", ".join(pieces)


def _periods(blocks: tuple[Block, ...], start: int) -> list[tuple[int, int]]:
    """Every period of the blocks from `start` on, with how often it repeats at once."""
    found = [(1, 1)]
    for period in range(1, min(LONGEST_PERIOD, (len(blocks) - start) // 2) + 1):
        turns = 1
        while blocks[start : start + period] == blocks[start + turns * period : start + (turns + 1) * period]:
            turns += 1
        found.append((period, turns))
    return found
