"""Reads the text of a pattern, in names or in letters, into blocks and marks; every fault shows where it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from eyas.core.errors import PatternError
from eyas.core.nearest import unknown_name

CUT = "|"
TAIL = "/"
REPEAT = re.compile(r"x[0-9]+")
WORD = re.compile(r"[A-Za-z0-9_]+")
BLOCK_LIMIT = 10_000
"""No model is this deep: a larger number of repetitions is a slip of the keyboard."""

Block = tuple[str, ...]
"""Names of the layers that stand side by side."""


@dataclass(frozen=True)
class Item:
    """A block, or a mark (cut or tail) in its place, and where it stands in the text."""

    at: int
    block: Block = ()
    mark: str = ""


@dataclass(frozen=True)
class Token:
    """A word or one other character of the text; the empty text stands for the end."""

    text: str
    at: int


@dataclass(frozen=True)
class Source:
    """A pattern as the user wrote it, and the layers that it may name with their symbols."""

    text: str
    layers: Mapping[str, str | None]

    @property
    def is_shorthand(self) -> bool:
        """Whether the text is letters rather than names; see `parse_pattern` for the rule."""
        if re.search(r"[\s,+\[\]]", self.text):
            return False
        words = re.split(r"[|/]", self.text)
        if all(word in self.layers for word in words if word):
            return False
        return bool(re.search(r"[*-]", self.text)) or not re.search(r"[a-z0-9_]", self.text)

    def fault(self, message: str, at: int, width: int = 1) -> PatternError:
        """An error that shows the pattern with carets under `width` characters."""
        return PatternError(f"{message}\n  {self.text}\n  {' ' * at}{'^' * max(1, width)}")


def read_letters(source: Source) -> list[Item]:
    """Reads one-letter shorthand."""
    items = []
    for at, letter in enumerate(source.text):
        if letter in (CUT, TAIL):
            items.append(Item(at, mark=letter))
        elif letter == "P":
            items.append(Item(at, (_layer_of(source, "M", at), _layer_of(source, "*", at))))
            items.append(Item(at, (_layer_of(source, "-", at),)))
        else:
            items.append(Item(at, (_layer_of(source, letter, at),)))
    return items


def _layer_of(source: Source, symbol: str, at: int) -> str:
    names = [name for name, its_symbol in source.layers.items() if its_symbol == symbol]
    if len(names) > 1:
        raise source.fault(f"{symbol!r} may be {' or '.join(map(repr, names))}; write the pattern in names", at)
    if not names:
        known = ", ".join(f"{its_symbol or 'no symbol'} ({name})" for name, its_symbol in source.layers.items())
        pair = f" (P is M+* and then -) but no layer has symbol {symbol!r}" if source.text[at] == "P" else ""
        raise source.fault(f"unknown symbol {source.text[at]!r}{pair}; there are: {known or 'none'}", at)
    return names[0]


def read_names(source: Source) -> list[Item]:
    """Reads blocks of layer names with brackets, repetitions, cuts and tail."""
    return _NameReader(source).sequence(None)


class _NameReader:
    """Walks over the tokens once, from left to right."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens = [Token(m[0], m.start()) for m in re.finditer(rf"{WORD.pattern}|\S", source.text)]
        self.tokens.append(Token("", len(source.text)))
        self.position = 0

    def take(self) -> Token:
        self.position += 1
        return self.tokens[self.position - 1]

    def peek(self) -> Token:
        return self.tokens[self.position]

    def fault(self, message: str, token: Token) -> PatternError:
        return self.source.fault(message, token.at, len(token.text))

    def sequence(self, opened: Token | None) -> list[Item]:
        """Items up to the bracket that closes `opened`, or to the end of the text."""
        items: list[Item] = []
        expected = "block"
        while (token := self.take()).text not in ("", "]"):
            if token.text == ",":
                if expected == "block":
                    raise self.fault("a block is missing before this comma", token)
                expected = "block"
            elif token.text in (CUT, TAIL):
                if token.text == TAIL and opened:
                    raise self.fault("the tail cannot begin inside a bracket", token)
                items.append(Item(token.at, mark=token.text))
                expected = "anything"
            else:
                if expected == "comma":
                    raise self.misplaced(token)
                items += self.bracket(token) if token.text == "[" else [Item(token.at, self.block(token))]
                expected = "comma"
        if opened and not token.text:
            raise self.fault("this bracket is never closed", opened)
        if token.text and not opened:
            raise self.fault("this bracket was never opened", token)
        if expected == "block":
            raise self.fault("a block is missing here", token)
        return items

    def misplaced(self, token: Token) -> PatternError:
        if REPEAT.fullmatch(token.text):
            return self.fault(f"{token.text} repeats the bracket right before it; write [...] {token.text}", token)
        if not WORD.fullmatch(token.text) and token.text != "[":
            return self.fault(f"unexpected {token.text!r}; a pattern is names with + and commas, or letters", token)
        return self.fault(f"a comma is missing before {token.text!r}", token)

    def bracket(self, opened: Token) -> list[Item]:
        items = self.sequence(opened)
        if not REPEAT.fullmatch(self.peek().text):
            return items
        times = self.take()
        if not 1 <= int(times.text[1:]) * len(items) <= BLOCK_LIMIT:
            raise self.fault(f"{times.text} of {len(items)} blocks; a model has 1 to {BLOCK_LIMIT} blocks", times)
        return items * int(times.text[1:])

    def block(self, token: Token) -> Block:
        names = [self.layer(token)]
        while self.peek().text == "+":
            plus = self.take()
            if not WORD.fullmatch(self.peek().text):
                raise self.fault("a layer is missing after this +", plus)
            token = self.take()
            if token.text in names:
                raise self.fault(f"layer {token.text!r} stands twice in one block; give the second a name", token)
            names.append(self.layer(token))
        return tuple(names)

    def layer(self, token: Token) -> str:
        if token.text == "+":
            raise self.fault("a layer is missing before this +", token)
        if token.text in self.source.layers:
            return token.text
        if not WORD.fullmatch(token.text) or REPEAT.fullmatch(token.text):
            raise self.misplaced(token)
        raise self.fault(unknown_name("layer", token.text, self.source.layers), token)
