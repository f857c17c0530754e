"""Decoding: several texts at once, each continued token by token."""

# B sequences of a batch, S tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from eyas.layers.model import HybridLM
from eyas.layers.sampling import Sampling
from eyas.layers.states import Prefix, row_dims, rows

Ends = Callable[[Sequence[int]], bool]
"""Whether a text ends with the newest of these tokens, its continuation so far."""


def read(model: HybridLM, tokens: Sequence[int], before: Prefix | None = None) -> Prefix:
    """The prefix that `tokens` make, behind another one or from the start."""
    before = before or Prefix((), model.initial_state(1))
    whole = (*before.tokens, *tokens)
    unread = whole[max(0, len(before.tokens) - 1) : -1]
    states = before.states
    if unread:
        _, states = model.prefill(torch.tensor([unread], device=model.context.place.device), states)
    return Prefix(whole, states)


def decode(
    model: HybridLM,
    prefix: Prefix,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling,
    seed: int,
    ends: Ends,
    vocab_size: int,
) -> list[list[int]]:
    """For each prompt behind the prefix, of which one has a token, its continuation: at most `tokens` tokens below
    `vocab_size`, the last of them the first that `ends` it.

    All sequences are at the same position in every step: each reads its prompt's next token while it has one, and from
    then on its own choice. So no sequence is padded, and none depends on its neighbours. Sequence i draws from a
    generator seeded with `seed` + i.
    """
    device = model.context.place.device
    texts = [[*prefix.tokens[-1:], *prompt] for prompt in prompts]
    starts = [len(text) for text in texts]
    draws = [torch.Generator().manual_seed(seed + index) for index in range(len(texts))]
    dims = row_dims(model)
    states = rows(prefix.states, dims, [0] * len(texts))
    position = min(starts) - 1
    if position:
        _, states = model.prefill(torch.tensor([text[:position] for text in texts], device=device), states)
    live = [index for index in range(len(texts)) if tokens > 0]
    while live:
        logits_BV, states = model.step(torch.tensor([texts[index][position] for index in live], device=device), states)
        position += 1
        going = []
        for row, index in enumerate(live):
            text, start = texts[index], starts[index]
            if len(text) == position:
                text.append(sampling.token(logits_BV[row, :vocab_size].cpu(), draws[index]))
            new = text[start:]
            if len(new) < tokens and not (new and ends(new)):
                going.append(row)
        if len(going) < len(live):
            states, live = rows(states, dims, going), [live[row] for row in going]
    return [text[start:] for text, start in zip(texts, starts, strict=True)]
