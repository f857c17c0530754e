"""Text from a trained model: `eyas generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eyas.core.errors import CheckpointError, ConfigError
from eyas.experiments import run_folder
from eyas.experiments.stops import Stops
from eyas.experiments.tokenizer import load_tokenizer, number_of, opening
from eyas.layers import states
from eyas.layers.decoding import decode, read
from eyas.layers.model import HybridLM
from eyas.layers.sampling import Sampling
from eyas.layers.speculation import Acceptance, speculative


@dataclass(frozen=True)
class Generated:
    """What `generate` gives."""

    texts: list[str]
    """A text for each prompt."""
    acceptance: Acceptance | None = None
    """How well speculation did."""


def generate(
    folder: Path,
    prompts: Sequence[str],
    *,
    tokens: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    seed: int = 0,
    from_prefix: Path | None = None,
    save_prefix: Path | None = None,
    speculate: bool = False,
) -> Generated:
    """Each prompt and its continuation by the run's latest checkpoint: up to `tokens` tokens, the document's end, or
    the first of the `stop` texts, which is left out.

    `from_prefix` names a saved beginning that every prompt continues (its tokens and the prompt's are cut apart there);
    `save_prefix` saves the state behind the one prompt. `speculate` drafts with the model's multi-token-prediction tail
    and takes one prompt after the other.
    """
    check(prompts, tokens, sampling, from_prefix, save_prefix, speculate)
    run_folder.check_text(folder, "text to go on with")
    model = load_model(folder)
    tokenizer = load_tokenizer(folder / run_folder.TOKENIZER)
    end = number_of(tokenizer, run_folder.open_run(folder).data.end_of_document)
    first = opening(tokenizer, end)
    stops = Stops(tokenizer, end, stop)
    limits: dict[str, Any] = {"tokens": tokens, "ends": stops, "vocab_size": tokenizer.get_vocab_size()}
    begins = from_prefix is None
    rest = [tokenizer.encode(prompt, add_special_tokens=begins).ids for prompt in prompts]
    acceptance = Acceptance() if speculate else None
    with torch.inference_mode():
        prefix = read(model, first) if from_prefix is None else states.load(from_prefix, model)
        if save_prefix is not None:
            prefix, rest = read(model, rest[0], prefix), [[]]
            states.save(prefix, save_prefix, model)
        if acceptance is None:
            new = decode(model, prefix, rest, sampling=sampling, seed=seed, **limits)
        else:
            new = [speculative(model, [*first, *prompt], acceptance=acceptance, **limits) for prompt in rest]
    texts = [
        tokenizer.decode([*prefix.tokens, *prompt]) + stops.cut(continuation)
        for prompt, continuation in zip(rest, new, strict=True)
    ]
    return Generated(texts, acceptance)


def check(
    prompts: Sequence[str],
    tokens: int,
    sampling: Sampling,
    from_prefix: Path | None,
    save_prefix: Path | None,
    speculate: bool,
) -> None:
    """Raises ConfigError for options that contradict each other."""
    if tokens < 0:
        raise ConfigError(f"tokens={tokens} must not be negative")
    if save_prefix is not None and len(prompts) != 1:
        raise ConfigError(f"a prefix is the state behind one prompt, and there are {len(prompts)}; give one")
    if speculate and not sampling.greedy:
        raise ConfigError("speculation drafts the likeliest tokens only; add --greedy, or leave out --speculate")
    if speculate and (from_prefix or save_prefix):
        raise ConfigError("speculation reads its prompt from the start; leave out prefixes, or --speculate")


def load_model(folder: Path, saved: Path | None = None) -> HybridLM:
    """The whole model of a run's checkpoint `saved`, or of its latest one, in this process."""
    from eyas.parallel import checkpoint, quiet
    from eyas.parallel.alone import alone

    quiet.install()
    run = run_folder.open_run(folder)
    saved = saved or checkpoint.latest(folder / run_folder.CHECKPOINTS)
    if saved is None:
        raise CheckpointError(
            f"{folder} has no complete checkpoint; train with trainer.checkpoint_interval, or to the end"
        )
    model = HybridLM(run.spec)
    with alone():
        state = checkpoint.load({"model": checkpoint.sharded_weights(model)}, saved)
    model.load_state_dict(state["model"])
    return model.eval()
