"""How a run reads and ends texts that it goes on with or is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from eyas.experiments import hf_folder, run_folder
from eyas.experiments.tokenizer import load_tokenizer, number_of


@dataclass(frozen=True)
class RunTokenizer:
    """A run's tokenizer and the tokens around a text. Those of a run that began with a model of Hugging Face's are
    transformers'; one trained here begins behind the end of the document before it, unless its tokenizer adds a token
    itself."""

    tokenizer: Tokenizer
    end: int
    """Ends a document of the training text."""
    first: tuple[int, ...]
    """Stands before a text."""
    ends: frozenset[int]
    """Any of them ends a continuation."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a piece of text, with none before them."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def begun(self, tokens: Sequence[int]) -> list[int]:
        """The tokens of a text with what stands before it; there is always a token."""
        return [*self.first, *tokens] or [self.end]


def open_tokenizer(run: Path) -> RunTokenizer:
    """The tokenizer of a run folder. Raises DataError where it cannot be read."""
    tokenizer = load_tokenizer(run / run_folder.TOKENIZER)
    end = number_of(tokenizer, run_folder.open_run(run).data.end_of_document)
    first = tuple(tokenizer.encode("").ids)
    imported = run / run_folder.HUGGING_FACE
    if not imported.is_dir():
        return RunTokenizer(tokenizer, end, first or (end,), frozenset({end}))
    tokenizer.encode_special_tokens = hf_folder.reads_special_tokens_as_text(imported)
    return RunTokenizer(tokenizer, end, first, frozenset(hf_folder.ends_of_text(imported)) or frozenset({end}))
