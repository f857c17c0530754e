"""Text from a trained model: `eyas generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eyas.core.errors import CheckpointError, ConfigError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelSpec
from eyas.experiments import run_folder
from eyas.experiments.run_tokenizer import open_tokenizer
from eyas.experiments.stops import Stops
from eyas.experiments.tokenizer import entries
from eyas.layers import states
from eyas.layers.decoding import decode, read
from eyas.layers.model import HybridLM
from eyas.layers.sampling import Sampling
from eyas.layers.speculation import Acceptance, speculative

CAPACITY = "capacity_factor"
"""The option of experts that drop tokens by how many are read at once."""
KERNEL = "kernel"
"""The option of a layer that says what computes it."""


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
    if speculate:
        check_speculation(model.spec)
    texts = open_tokenizer(folder)
    stops = Stops(texts.tokenizer, texts.ends, stop)
    limits: dict[str, Any] = {"tokens": tokens, "ends": stops, "vocab_size": entries(texts.tokenizer)}
    rest = [texts.encode(prompt) for prompt in prompts]
    acceptance = Acceptance() if speculate else None
    with torch.inference_mode():
        if from_prefix is None:
            prefix, rest = read(model, ()), [texts.begun(prompt) for prompt in rest]
        else:
            prefix = states.load(from_prefix, model)
        if save_prefix is not None:
            prefix, rest = read(model, rest[0], prefix), [[]]
            states.save(prefix, save_prefix, model)
        if acceptance is None:
            new = [
                text
                for start, together in batches(model.spec, rest)
                for text in decode(model, prefix, together, sampling=sampling, seed=seed + start, **limits)
            ]
        else:
            new = [speculative(model, prompt, acceptance=acceptance, **limits) for prompt in rest]
    whole = [
        texts.tokenizer.decode(before := [*prefix.tokens, *prompt]) + stops.cut(continuation, before)
        for prompt, continuation in zip(rest, new, strict=True)
    ]
    return Generated(whole, acceptance)


def batches(spec: ModelSpec, prompts: Sequence[list[int]]) -> Iterator[tuple[int, Sequence[list[int]]]]:
    """What is decoded together, each with the number of its first prompt: all prompts; or one after the other where a
    layer's tokens depend on their neighbours, as those of experts with a capacity do."""
    if all(layer.carries_documents for layer in spec.used_layers.values()):
        yield 0, prompts
    else:
        yield from ((number, [prompt]) for number, prompt in enumerate(prompts))


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


def check_speculation(spec: ModelSpec) -> None:
    """Raises ConfigError for a model whose tokens depend on how many are read at once: drafts are read together."""
    for name, layer in spec.used_layers.items():
        if getattr(layer, CAPACITY, None) is not None:
            raise ConfigError(
                f"model.layers.{name}.{CAPACITY} drops tokens by how many are read at once, so that drafts would be "
                "judged otherwise than alone; leave out --speculate"
            )


def on_cpu(spec: ModelSpec) -> ModelSpec:
    """The model with kernels that a CPU has, in the place of those that only a GPU has: the same result."""

    def here(layer: MixerConfig) -> MixerConfig:
        try:
            layer.check_device(False)
        except ConfigError:
            return replace(layer, **{KERNEL: "auto"}) if hasattr(layer, KERNEL) else layer
        return layer

    return replace(spec, layers={name: here(layer) for name, layer in spec.layers.items()})


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
    model = HybridLM(on_cpu(run.spec))
    with alone():
        state = checkpoint.load({"model": checkpoint.sharded_weights(model)}, saved)
    model.load_state_dict(state["model"])
    return model.eval()
