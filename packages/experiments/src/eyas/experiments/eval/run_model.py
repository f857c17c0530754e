"""A run's model as lm-eval asks models: log-likelihoods of continuations and of whole texts, and continuations."""

# B batch, S sequence

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console
from rich.progress import track

from eyas.core.errors import ConfigError
from eyas.core.labels import IGNORED
from eyas.experiments import run_folder
from eyas.experiments.generate import load_model
from eyas.experiments.run_tokenizer import open_tokenizer
from eyas.experiments.stops import Stops
from eyas.experiments.tokenizer import entries
from eyas.layers.decoding import decode, read
from eyas.layers.sampling import Sampling
from eyas.parallel import checkpoint
from eyas.parallel.losses import HIT, LOSS, Losses

Scored = tuple[list[int], list[int]]
"""What a model is given, and the tokens behind it whose probability is asked for."""
Item = TypeVar("Item")
NEW_TOKENS = 256
"""Of a continuation whose task does not say how long it may be, as in lm-eval's own models."""
HEEDED = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"})
"""What a task may ask of a continuation."""


class RunLM(TemplateLM):
    """The latest checkpoint of a run. Every text begins as `eyas generate` begins it (see RunTokenizer)."""

    def __init__(self, folder: Path, *, batch: int = 8, longest: int | None = None) -> None:
        """`batch` texts are read at once; `longest` tokens at most, the latest ones, or all of them."""
        super().__init__()
        run_folder.check_text(folder, "text to be asked about")
        saved = checkpoint.latest(folder / run_folder.CHECKPOINTS)
        self.model = load_model(folder, saved)
        assert saved is not None
        self.step = int(saved.name.partition("-")[2])
        """Of the checkpoint; a run that goes on meanwhile may get later ones."""
        self.texts = open_tokenizer(folder)
        self.before = self.texts.begun(())
        """What the first token of a text is scored behind."""
        if longest is not None and longest <= len(self.before):
            raise ConfigError(f"--max-length={longest} leaves no token of a text; give {len(self.before) + 1} or more")
        kept_apart = all(mixer.carries_documents for mixer in self.model.spec.used_layers.values())
        self.batch = batch if kept_apart else 1
        self.longest = longest
        self.console = Console(file=sys.stderr)
        """For progress; the terminal itself, whatever becomes of sys.stderr later."""

    @property
    def eot_token_id(self) -> int:
        return self.texts.end

    @property
    def prefix_token_id(self) -> int:
        return self.before[-1]

    @property
    def tokenizer_name(self) -> str:
        return run_folder.TOKENIZER

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.texts.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked: list[Scored] = []
        for (context, _), given, wanted in requests:
            asked.append(self.cut(self.texts.begun(given if context else given[1:]), wanted))
        return self.score(asked, "Log-likelihoods")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [self.tok_encode(request.args[0]) for request in requests]
        asked = [list(self.windows(text)) for text in texts]
        scores = iter(self.score([part for parts in asked for part in parts], "Log-likelihoods of texts"))
        return [sum(next(scores)[0] for _ in parts) for parts in asked]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        made: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        parts = [
            (start, group[start : start + self.batch]) for group in groups.values() for start in self.starts(len(group))
        ]
        for start, part in self.shown(parts, "Continuations"):
            texts = self.continuations([requests[index].args[0] for index in part], requests[part[0]].args[1], start)
            for index, text in zip(part, texts, strict=True):
                made[index] = text
        return made

    def continuations(self, contexts: Sequence[str], asked: dict[str, Any], seed: int) -> list[str]:
        """A text behind each context, as a task's `generation_kwargs` ask for it; what it is to end before is left out.
        The first is drawn with `seed`, each further one with the next: whatever the batch, each has a seed of its own.
        Raises ConfigError for what would not be heeded."""
        if unknown := asked.keys() - HEEDED:
            raise ConfigError(
                f"generation_kwargs of a task: {sorted(unknown)[0]} is none of {', '.join(sorted(HEEDED))}"
            )
        until = asked.get("until") or []
        stops = Stops(self.texts.tokenizer, self.texts.ends, [until] if isinstance(until, str) else list(until))
        sampling = Sampling(
            temperature=float(asked.get("temperature") or 1.0) if asked.get("do_sample") else 0.0,
            top_k=asked.get("top_k") or None,
            top_p=float(asked.get("top_p") or 1.0),
        )
        tokens = int(asked.get("max_gen_toks", NEW_TOKENS))
        with torch.inference_mode():
            new = decode(
                self.model, read(self.model, ()), [self.kept(self.texts.encode(text)) for text in contexts],
                tokens=tokens, sampling=sampling, seed=seed, ends=stops, vocab_size=entries(self.texts.tokenizer),
            )  # fmt: skip
        return [stops.cut(continuation) for continuation in new]

    def score(self, asked: Sequence[Scored], what: str) -> list[tuple[float, bool]]:
        """The log-probability of the wanted tokens behind those that are given, and whether each is the likeliest."""
        order = sorted(range(len(asked)), key=lambda index: -len(asked[index][0]) - len(asked[index][1]))
        scored: list[tuple[float, bool]] = [(0.0, True)] * len(asked)
        for start in self.shown(self.starts(len(order)), what):
            part = order[start : start + self.batch]
            for index, outcome in zip(part, self.score_batch([asked[index] for index in part]), strict=True):
                scored[index] = outcome
        return scored

    def score_batch(self, asked: Sequence[Scored]) -> Iterator[tuple[float, bool]]:
        """The same for texts read at once; what stands behind a text is never seen by it."""
        length = max(len(given) + len(wanted) for given, wanted in asked) - 1
        tokens_BS = torch.zeros(len(asked), length, dtype=torch.long)
        labels_BS = torch.full((len(asked), length), IGNORED)
        for row, (given, wanted) in enumerate(asked):
            whole = torch.tensor([*given, *wanted])
            tokens_BS[row, : len(whole) - 1] = whole[:-1]
            labels_BS[row, len(given) - 1 : len(whole) - 1] = whole[len(given) :]
        with torch.inference_mode():
            graded = self.model(tokens_BS, labels_BS, graded=True)
        assert isinstance(graded, Losses)
        asked_SB = (labels_BS != IGNORED).t()
        loss_SB, hit_SB = graded.parts[LOSS].double(), graded.parts[HIT].bool()
        for row in range(len(asked)):
            yield -float(loss_SB[asked_SB[:, row], row].sum()), bool(hit_SB[asked_SB[:, row], row].all())

    def windows(self, text: Sequence[int]) -> Iterator[Scored]:
        """The whole text at once, or in parts that each read as many tokens as they may."""
        if not text:
            return
        if self.longest is None or len(text) + len(self.before) <= self.longest + 1:
            yield self.before, list(text)
            return
        length = self.longest - len(self.before) + 1
        for window in get_rolling_token_windows(list(text), self.prefix_token_id, length, 1):
            given, wanted = make_disjoint_window(window)
            yield [*self.before[:-1], *given], wanted

    def cut(self, given: list[int], wanted: list[int]) -> Scored:
        """The latest tokens that may be read, behind what every text begins with."""
        if self.longest is None:
            return given, wanted
        over = len(given) + len(wanted) - 1 - self.longest
        if over <= 0:
            return given, wanted
        begin = len(self.texts.first)
        if len(given) - over < len(self.before):
            raise ConfigError(
                f"--max-length={self.longest} is less than an answer of {len(wanted)} tokens takes; give "
                f"{len(self.before) + len(wanted) - 1} or more"
            )
        return [*self.texts.first, *given[begin + over :]], wanted

    def kept(self, context: list[int]) -> list[int]:
        """The latest tokens of what is to be continued, behind what every text begins with."""
        return self.texts.begun(context if self.longest is None else context[len(self.texts.first) - self.longest :])

    def shown(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """The items, with a bar on a terminal."""
        yield from track(items, what, console=self.console, transient=True, disable=not self.console.is_terminal)

    def starts(self, count: int) -> Sequence[int]:
        """Where each batch of so many texts begins."""
        return [number * self.batch for number in range(math.ceil(count / self.batch))]
