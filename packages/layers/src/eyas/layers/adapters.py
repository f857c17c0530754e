"""Adapters of low rank: each place of a shared block runs its mixers with weights W + B A."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from eyas.core.mixer import Mixer, MixerContext, Placement, empty_parameter
from eyas.core.weights import Weight

Weights = Mapping[str, Tensor]


class Adapters(nn.Module):
    """The matrices A and B that one place of a shared block adds to the weights of one of its mixers."""

    def __init__(self, declared: Mapping[str, Weight], groups: Iterable[str], place: Placement) -> None:
        super().__init__()
        self.groups = [group.split("+") for group in groups]
        for name, weight in declared.items():
            self.register_parameter(name, empty_parameter(weight, place))

    def forward(self, mixer: Mixer) -> dict[str, Tensor]:
        """W + B A by name: the product is of the weights' size, so that a mixer needs to know nothing of adapters and
        long sequences cost less than through the two matrices one after the other."""
        return {
            name: getattr(mixer, name) + getattr(self, f"B_{name}") @ getattr(self, f"A_{'_'.join(names)}")
            for names in self.groups
            for name in names
        }


def forward_with(weights: Weights, mixer: Mixer, x_SBD: Tensor, context: MixerContext) -> Tensor:
    """The mixer's forward pass with some of its weights replaced."""
    return functional_call(mixer, dict(weights), (x_SBD, context)) if weights else mixer(x_SBD, context)


def further_with(
    weights: Weights, mixer: Mixer, x_SBD: Tensor, state: object, context: MixerContext
) -> tuple[Tensor, object]:
    """The mixer's output for further tokens (S, B, D) and its next state, with some of its weights replaced."""
    if not weights:
        return further(mixer, x_SBD, state, context)
    named = {f"mixer.{name}": weight for name, weight in weights.items()}
    result: tuple[Tensor, object] = functional_call(_Further(mixer), named, (x_SBD, state, context))
    return result


def further(mixer: Mixer, x_SBD: Tensor, state: object, context: MixerContext) -> tuple[Tensor, object]:
    """One token by `step`, which needs no chunks or masks; several in one pass."""
    if x_SBD.shape[0] > 1:
        return mixer.prefill(x_SBD, state, context)
    y_BD, state = mixer.step(x_SBD[0], state, context)
    return y_BD[None], state


class _Further(nn.Module):
    """A mixer whose call is `further`; replacing weights works through a module's call alone."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, *arguments: Any) -> tuple[Tensor, object]:
        return further(self.mixer, *arguments)
