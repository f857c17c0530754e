"""Where a generated text ends: at the document's end, or before a stop string, however tokens cut it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

from eyas.core.errors import ConfigError


class Stops:
    """Recognises the end of a continuation from its tokens, and cuts its text there."""

    def __init__(self, tokenizer: Tokenizer, ends: Collection[int], texts: Sequence[str]) -> None:
        """`ends` are the tokens any of which ends a text, as does a special token that one of `texts` spells."""
        if "" in texts:
            raise ConfigError("an empty stop text would end before the first token; leave it out")
        added = tokenizer.get_added_tokens_decoder().items()
        self.tokenizer, self.texts = tokenizer, texts
        self.ends = {*ends, *(number for number, token in added if token.special and token.content in texts)}
        self.reach = max((len(text.encode()) for text in texts), default=0)
        """Tokens that the longest stop text can take: each has at least a byte."""
        self.opening: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
        """Stands before what is decoded alone: some tokenizers take the space away that a text begins with."""
        self.opened = len(tokenizer.decode(self.opening))

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the continuation ends with the newest of these tokens."""
        if tokens[-1] in self.ends:
            return True
        latest = self.tokenizer.decode([*self.opening, *tokens[-self.reach :]]) if self.reach else ""
        return any(text in latest[self.opened :] for text in self.texts)

    def cut(self, tokens: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of a continuation of the tokens `before`, up to the first stop text. It is decoded with them, which
        keeps the space that it may begin with."""
        before = before if self.tokenizer.decode(list(before)) else self.opening
        known: str = self.tokenizer.decode(list(before))
        whole: str = self.tokenizer.decode([*before, *(token for token in tokens if token not in self.ends)])
        text = whole[len(known) :]
        ends = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text
