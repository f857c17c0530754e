"""Greedy decoding that drafts with the multi-token-prediction tail and verifies with the main model."""

# S tokens, B batch (here one sequence), D hidden

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.layers.decoding import Ends
from eyas.layers.model import HybridLM
from eyas.layers.mtp import Depth


@dataclass
class Acceptance:
    """How many drafted tokens the main model would have chosen itself."""

    drafted: int = 0
    accepted: int = 0

    @property
    def rate(self) -> float:
        """The accepted share; 0 without drafts."""
        return self.accepted / max(1, self.drafted)


class Drafter:
    """Drafts one token with each depth of the tail.

    Depth k at position i reads the token i + k. Where that token is known, its state is kept; where it is itself only
    drafted, the depth runs on from that state, and the result is dropped.
    """

    def __init__(self, model: HybridLM) -> None:
        self.model = model
        self.tracks = [Track(depth, depth.initial_state(1)) for depth in model.mtp.in_order()]

    def draft(self, tokens: Sequence[int], normed_SBD: Tensor, vocab_size: int) -> list[int]:
        """The tokens that may follow `tokens`, one for each depth. `normed`: the main model's output at the positions
        that no earlier call had, up to the last token but one."""
        drafted: list[int] = []
        known_SBD, guessed_SBD = normed_SBD, normed_SBD[:0]
        for k, track in enumerate(self.tracks, 1):
            ahead = [*tokens, *drafted][track.done + k :]
            waiting_SBD = torch.cat([track.waiting, known_SBD]) if track.waiting is not None else known_SBD
            count = max(0, len(tokens) - k - track.done)
            known_SBD, track.states = self.run(track, waiting_SBD[:count], ahead[:count])
            rest_SBD = torch.cat([waiting_SBD[count:], guessed_SBD])
            guessed_SBD, _ = self.run(track, rest_SBD, ahead[count:])
            track.waiting, track.done = waiting_SBD[count:], track.done + count
            drafted += likeliest(self.model, torch.cat([known_SBD, guessed_SBD])[-1:], vocab_size)
        return drafted

    def run(self, track: Track, h_SBD: Tensor, ahead: Sequence[int]) -> tuple[Tensor, Any]:
        """A depth over some positions, of which there may be none, and the tokens that they read."""
        if not len(h_SBD):
            return h_SBD, track.states
        context = self.model.context
        embedded_SBD = self.model.embed(torch.tensor([ahead], device=h_SBD.device), context)
        return track.depth.prefill(h_SBD, embedded_SBD, track.states, context)


@dataclass
class Track:
    """How far a depth has come in the text."""

    depth: Depth
    states: Any
    """Behind the positions whose token ahead was known."""
    done: int = 0
    """The number of those positions."""
    waiting: Tensor | None = None
    """What the depth before has put out for the positions after them, (S, B, D)."""


def speculative(
    model: HybridLM, prompt: Sequence[int], *, tokens: int, ends: Ends, vocab_size: int, acceptance: Acceptance
) -> list[int]:
    """What `decode` gives greedily behind one prompt of at least one token; counts in `acceptance` how drafts did.

    The main model reads a whole draft at once, so that its sums are made in another order than token by token: texts
    differ where two tokens are equally likely to within rounding. States are values: a draft that fails leaves the one
    before it as it was, and the accepted part is read again from there.
    """
    if not model.spec.pattern.tail:
        raise ConfigError("the model has no multi-token-prediction tail to draft with; its pattern needs a '/'")
    drafter, text = Drafter(model), list(prompt)
    normed_SBD, states = read_on(model, text, model.initial_state(1))
    new = likeliest(model, normed_SBD[-1:], vocab_size)
    while not finished(new, tokens, ends):
        draft = drafter.draft([*text, new[-1]], normed_SBD, vocab_size)
        unread = [new[-1], *draft]
        text.append(new[-1])
        normed_SBD, after = read_on(model, unread, states)
        choices = likeliest(model, normed_SBD, vocab_size)
        agreed = next((n for n, token in enumerate(draft) if token != choices[n]), len(draft))
        if agreed < len(draft):
            _, after = read_on(model, unread[: agreed + 1], states)
        states, normed_SBD = after, normed_SBD[: agreed + 1]
        text += draft[:agreed]
        acceptance.drafted += len(draft)
        acceptance.accepted += agreed
        for token in choices[: agreed + 1]:
            new.append(token)
            if finished(new, tokens, ends):
                break
    return new[:tokens]


def finished(new: Sequence[int], tokens: int, ends: Ends) -> bool:
    """Whether the continuation has its last token."""
    return len(new) >= tokens or ends(new)


def read_on(model: HybridLM, tokens: Sequence[int], states: Any) -> tuple[Tensor, Any]:
    """The main model over some more tokens: its normed output (S, 1, D), and the states behind them."""
    hidden_SBD, states = model.prefill(torch.tensor([tokens], device=model.context.place.device), states)
    return model.final_norm(hidden_SBD), states


def likeliest(model: HybridLM, normed_SBD: Tensor, vocab_size: int) -> list[int]:
    """The token that the head finds likeliest after each position of a normed output (S, 1, D)."""
    return model.logits(normed_SBD, model.context)[:, 0, :vocab_size].argmax(-1).tolist()
