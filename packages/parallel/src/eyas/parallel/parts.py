"""Parts of a model by name, layer or role: which of its weights are frozen, and which learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, held
from eyas.core.nearest import unknown_name
from eyas.parallel.options import OptimizerOptions

Addresses = Mapping[str, tuple[str, ...]]
"""What each trained weight goes by, by its name: that name, and inside a mixer its layer's and its role's."""


class Factors(NamedTuple):
    """What a weight's learning rate and weight decay are multiplied by."""

    learning_rate: float
    weight_decay: float


def addresses(model: nn.Module) -> Addresses:
    """Of a model or of a stage of it: blocks.0.branches.attn.q is layers.attn.q and attention.q too."""
    mixers = {path: module for path, module in model.named_modules() if isinstance(module, Mixer)}
    found: dict[str, tuple[str, ...]] = {}
    for name, _, weight, _ in held(model):
        path, _, own = name.rpartition(".")
        if weight.trained:
            found[name] = (name,)
        if weight.trained and path in mixers:
            found[name] += (f"layers.{path.rpartition('.')[2]}.{own}", f"{mixers[path].config.role}.{own}")
    return found


def chosen(pattern: str, known: Addresses) -> set[str]:
    """The weights that a pattern means: those that go by it, by a beginning, a middle or an end of it at the dots; `*`,
    `?` and `[0-3]` stand for what they do in file names."""
    wanted = pattern.split(".")
    return {name for name, goes_by in known.items() if any(_inside(wanted, address) for address in goes_by)}


def _inside(wanted: list[str], address: str) -> bool:
    words = address.split(".")
    runs = (words[start : start + len(wanted)] for start in range(len(words) - len(wanted) + 1))
    return any(all(map(fnmatchcase, run, wanted)) for run in runs)


def check_parts(model: nn.Module, options: OptimizerOptions) -> None:
    """Raises ConfigError where a pattern means nothing in the whole model, a weight is to learn at two rates, or to be
    frozen and to learn, or nothing is left to train."""
    known = addresses(model)
    frozen = _meant("optimizer.frozen", options.frozen, known)
    if len(frozen) == len(known):
        raise ConfigError(f"optimizer.frozen={list(options.frozen)} leaves nothing to train; leave one of them out")
    taken = dict.fromkeys(frozen, "optimizer.frozen")
    for group, rates in options.groups.items():
        path = f"optimizer.groups.{group}"
        for name in sorted(_meant(f"{path}.parts", rates.parts, known)):
            if name in taken:
                raise ConfigError(f"{path}.parts means {name}, and so does {taken[name]}; make one of them narrower")
            taken[name] = path


def _meant(path: str, patterns: Iterable[str], known: Addresses) -> set[str]:
    """The weights of all the patterns."""
    meant: set[str] = set()
    for pattern in patterns:
        found = chosen(pattern, known)
        if not found:
            words = {word for goes_by in known.values() for address in goes_by for word in address.split(".")}
            layers = {".".join(goes_by[1].split(".")[:2]) for goes_by in known.values() if len(goes_by) > 1}
            names = layers | {word for word in words if not word.isdecimal()}
            raise ConfigError(f"{path}: {unknown_name('part', pattern, names)}")
        meant |= found
    return meant


def freeze(model: nn.Module, options: OptimizerOptions) -> None:
    """Takes gradients from the frozen weights of a model or a stage: they get no room for one, no optimizer's state and
    no decay, and do not count in the gradient's norm."""
    known, weights = addresses(model), dict(model.named_parameters())
    for pattern in options.frozen:
        for name in chosen(pattern, known):
            weights[name].requires_grad_(False)


def factors(model: nn.Module, options: OptimizerOptions, rates: Mapping[str, float]) -> dict[str, Factors]:
    """Of every trained weight of a model or a stage. `rates` are the model's own, by the width of its matrices; what a
    step's decay takes away is the same at every width, as hyperparameters that carry over want it (Wang and Aitchison,
    2024), so that the weight decay, which the learning rate multiplies, makes up for them."""
    known = addresses(model)
    found = {
        name: Factors(rates.get(name, 1.0), weight.decay / rates.get(name, 1.0))
        for name, _, weight, _ in held(model)
        if name in known
    }
    for group in options.groups.values():
        for name in {name for pattern in group.parts for name in chosen(pattern, known)}:
            learning_rate, weight_decay = found[name]
            found[name] = Factors(learning_rate * group.learning_rate_factor, weight_decay * group.weight_decay_factor)
    return found
