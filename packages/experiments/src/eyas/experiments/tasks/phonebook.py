"""A phonebook (Jelassi et al., 2024, section 5.1), and its reversed form (Waleffe et al., 2024, section 3.4)."""

# E entries of a book

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments.tasks.task import Draw, Task, Tokens, at_least, padded

PADDING, COLON, NEWLINE, ASK, DIGIT = 0, 1, 2, 3, 4
NAME = DIGIT + 10
"""The first of the names, each of which is one token."""
EXAMPLES = 2
"""Entries that show the form of an answer."""


@dataclass(frozen=True, kw_only=True)
class Phonebook(Task):
    """Entries `name:number`, one a line, and a name whose number is asked for, up to the end of its line.

    standard: the book, two of its entries once more, `name:`. reversed: two entries of the book, `<ask>name`, the book,
    `<ask>name:`, so that a reader knows beforehand what to keep.
    """

    whole_answers: ClassVar[bool] = True
    size_option: ClassVar[str] = "entries"

    kind: Literal["phonebook"] = "phonebook"
    order: Literal["standard", "reversed"] = "standard"
    entries: int = 16
    """Of the largest book; any number from `fewest` on is as likely. Tests have books of this size alone."""
    fewest: int = 8
    names: int = 512
    """There are; a book has none twice."""
    digits: int = 4
    """Of a number."""

    def check(self) -> None:
        at_least(1, digits=self.digits)
        at_least(EXAMPLES + 1, fewest=self.fewest)
        if not self.fewest <= self.entries <= self.names:
            raise ConfigError(
                f"entries={self.entries} must be from fewest={self.fewest} to names={self.names}, of which a book has "
                "none twice"
            )

    @property
    def vocab_size(self) -> int:
        return NAME + self.names

    @property
    def line(self) -> int:
        """Tokens of an entry: name, colon, digits, newline."""
        return self.digits + 3

    @property
    def sequence_length(self) -> int:
        asked_before = 3 if self.order == "reversed" else 0
        question = self.digits + (3 if self.order == "reversed" else 2)
        return (self.entries + EXAMPLES) * self.line + asked_before + question

    def at(self, size: int) -> Phonebook:
        return replace(self, entries=size, fewest=size, eval_lengths=())

    def sequence(self, draw: Draw) -> tuple[Tokens, Tokens]:
        count = draw.randint(self.fewest, self.entries + 1)
        book = np.empty((count, self.line), np.int64)
        book[:, 0] = NAME + draw.choice(self.names, count, replace=False)
        book[:, 1], book[:, -1] = COLON, NEWLINE
        book[:, 2:-1] = DIGIT + draw.randint(10, size=(count, self.digits))
        *shown, asked = draw.choice(count, EXAMPLES + 1, replace=False)
        name, answer = book[asked, 0], book[asked, 2:]
        if self.order == "standard":
            prompt = [*book.flat, *book[shown].flat, name, COLON]
        else:
            prompt = [*book[shown].flat, ASK, name, NEWLINE, *book.flat, ASK, name, COLON]
        labels = np.full(len(prompt) + self.digits, IGNORED)
        labels[len(prompt) - 1 :] = answer
        return padded([*prompt, *answer[:-1]], labels, self.sequence_length, PADDING)
