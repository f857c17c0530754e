"""What a run reads, in a few lines for the terminal and on a page of the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyas.experiments.data_config import DataConfig, Text
from eyas.experiments.prepared import Prepared, PreparedText

MANNERS = {
    "joined": "one stream, cut into sequences anywhere",
    "isolated": "one stream, cut into sequences anywhere; documents do not see each other",
    "packed": "whole documents side by side; they do not see each other",
}


def card_lines(config: DataConfig, prepared: Prepared) -> list[str]:
    """A line for each text: how much there is of it, and how much of it the run is made of."""
    lines = []
    for text in config.texts:
        found = prepared.texts[text.name]
        named = f"{text.name} ({_percent(text)})" if text.name else "Data"
        train, lengths = found.train, found.lengths
        size = "" if train.bytes is None else f", {train.bytes / train.tokens:.2f} bytes each"
        lines.append(
            f"{named}: {train.tokens:,} training tokens{size}, in {train.documents:,} documents of "
            f"{lengths.quantiles['median']:,} at the median; {found.validation.tokens:,} for validation"
        )
    return lines


def card_page(config: DataConfig, prepared: Prepared, sequences: int, passes: Mapping[str, float]) -> str:
    """The page in Markdown, for a run of so many training sequences; `passes` says how often it reads each text."""
    vocabulary = "no tokenizer" if prepared.tokenizer is None else config.tokenizer or "byte-level BPE, trained on it"
    parts = [
        "# Data\n",
        f"- vocabulary: {prepared.vocab_size:,} ({vocabulary})",
        f"- sequences: {sequences:,} of {config.sequence_length:,} tokens in training, in an order that seed "
        f"{config.seed} decides",
        f"- documents: {MANNERS[config.documents]}\n",
        _table(
            ("text", "share", "files", "documents", "tokens", "bytes", "validation documents", "validation tokens",
             "passes", "unigram loss"),
            [_sizes(text, prepared.texts[text.name], passes[text.name]) for text in config.texts],
        ),
        "\n## Tokens in a training document\n",
        _table(
            ("text", "mean", *next(iter(prepared.texts.values())).lengths.quantiles),
            [
                (_name(text), f"{found.mean:,.1f}", *(f"{value:,}" for value in found.quantiles.values()))
                for text in config.texts
                for found in [prepared.texts[text.name].lengths]
            ],
        ),
        *(section for text in config.texts for section in _about(text, prepared.texts[text.name])),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _sizes(text: Text, found: PreparedText, passes: float) -> Sequence[str]:
    return (
        _name(text),
        _percent(text),
        f"{found.files:,}",
        f"{found.train.documents:,}",
        f"{found.train.tokens:,}",
        "" if found.train.bytes is None else f"{found.train.bytes:,}",
        f"{found.validation.documents:,}",
        f"{found.validation.tokens:,}",
        f"{passes:.3g}",
        f"{found.unigram_loss:.4f}",
    )


def _about(text: Text, found: PreparedText) -> list[str]:
    longest = max(found.lengths.histogram.values())
    bars = [
        (f"{start}+", f"{count:,}", "#" * -(-40 * count // longest)) for start, count in found.lengths.histogram.items()
    ]
    return [
        f"\n## {_name(text)}\n",
        f"- files: `{found.origin}`",
        f"- hash of contents and options: `{found.hash}`",
        f"- tokens on disk: `{found.directory}`\n",
        _table(("tokens", "documents", ""), bars),
        "\nThe beginning of a training document:\n",
        *(f"    {line}" for line in found.sample.splitlines()),
    ]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(text: Text) -> str:
    return text.name or "all"


def _percent(text: Text) -> str:
    return f"{float(text.share):.4g}"
