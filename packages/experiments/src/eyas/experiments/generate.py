"""Text from a trained model: `eyas generate`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from eyas.core.errors import CheckpointError, ConfigError
from eyas.experiments import run_folder
from eyas.experiments.tokenizer import load_tokenizer, number_of, opening
from eyas.layers.model import HybridLM


def generate(
    folder: Path, prompt: str, *, tokens: int, temperature: float = 0.8, top_k: int | None = 50, seed: int = 0
) -> str:
    """The prompt and its continuation by the run's latest checkpoint, up to `tokens` tokens or the document's end.

    temperature 0 takes the likeliest token; `top_k` draws among the likeliest k.
    """
    if tokens < 1 or temperature < 0 or (top_k is not None and top_k < 1):
        raise ConfigError(
            f"tokens={tokens} and top_k={top_k} must be at least 1, and temperature={temperature} not negative"
        )
    model = load_model(folder)
    tokenizer = load_tokenizer(folder / run_folder.TOKENIZER)
    end = number_of(tokenizer, run_folder.open_run(folder).data.end_of_document)
    ids = tokenizer.encode(prompt).ids
    random = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        states = model.initial_state(1)
        for token in [*opening(tokenizer, end), *ids]:
            logits, states = model.step(torch.tensor([token]), states)
        for _ in range(tokens):
            token = pick(logits[0, : tokenizer.get_vocab_size()], temperature, top_k, random)
            if token == end:
                break
            ids.append(token)
            logits, states = model.step(torch.tensor([token]), states)
    return tokenizer.decode(ids)


def load_model(folder: Path) -> HybridLM:
    """The whole model of a run's latest checkpoint, in this process."""
    from eyas.parallel import checkpoint, quiet
    from eyas.parallel.alone import alone
    from eyas.parallel.layout import Layout

    quiet.install()
    run = run_folder.open_run(folder)
    latest = checkpoint.latest(folder / run_folder.CHECKPOINTS)
    if latest is None:
        raise CheckpointError(
            f"{folder} has no complete checkpoint; train with trainer.checkpoint_interval, or to the end"
        )
    model = HybridLM(run.spec)
    with alone():
        state = checkpoint.load({"model": checkpoint.sharded_weights(model, Layout())}, latest)
    model.load_state_dict(state["model"])
    return model.eval()


def pick(logits_V: Tensor, temperature: float, top_k: int | None, random: torch.Generator) -> int:
    """One token by its logits."""
    if temperature == 0:
        return int(logits_V.argmax())
    if top_k is not None and top_k < len(logits_V):
        logits_V = logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], float("-inf"))
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=random))
