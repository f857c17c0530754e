"""Mixers by name. Installing a package that declares an `eyas.mixers` entry point is all it takes to add one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from eyas.core.errors import ConfigError, EyasError
from eyas.core.nearest import unknown_name

if TYPE_CHECKING:
    from eyas.core.mixer import Mixer

ENTRY_POINTS = "eyas.mixers"
M = TypeVar("M", bound="type[Mixer]")


@dataclass(frozen=True)
class Registered:
    """One registered mixer."""

    kind: str
    symbol: str | None
    mixer: type[Mixer]
    package: str
    """The distribution that brought it."""

    @property
    def summary(self) -> str:
        """First line of the mixer's docstring."""
        return (self.mixer.__doc__ or "").strip().partition("\n")[0]


def register(kind: str, *, symbol: str | None = None) -> Callable[[M], M]:
    """Class decorator that gives a mixer its name, and a one-letter symbol for pattern shorthand if it claims one.
    Raises ConfigError for a mixer whose Config has another's name already."""
    if symbol is not None and not (len(symbol) == 1 and symbol != "P" and (symbol.isupper() or symbol in "*-")):
        raise ConfigError(f"mixer {kind!r} claims symbol {symbol!r}; a symbol is one capital letter other than P")

    def name(mixer: M) -> M:
        other = vars(mixer.Config).get("kind", kind)
        if other != kind:
            raise ConfigError(
                f"mixer {kind!r} ({mixer.__module__}.{mixer.__qualname__}) shares its Config with {other!r}; give it "
                f"one of its own, such as class Config({mixer.Config.__qualname__})"
            )
        mixer.Config.kind = kind
        mixer.Config.role = getattr(mixer.Config, "role", "") or kind
        mixer.symbol = symbol  # type: ignore[attr-defined]  # an attribute that the decorator adds
        return mixer

    return name


@cache
def mixers() -> dict[str, Registered]:
    """Every installed mixer by kind. Raises ConfigError where two packages claim one name or symbol."""
    return collect(entry_points(group=ENTRY_POINTS))


def collect(points: Iterable[EntryPoint]) -> dict[str, Registered]:
    """Loads entry points into a table; see `mixers`."""
    found: dict[str, Registered] = {}
    for point in sorted(points, key=lambda p: (p.name, _package(p))):
        mixer = _load(point)
        kind = mixer.Config.kind
        entry = Registered(kind, getattr(mixer, "symbol", None), mixer, _package(point))
        for other in found.values():
            if other.kind == kind and other.mixer is mixer:
                break
            if other.kind == kind:
                raise ConfigError(f"mixer {kind!r} is claimed by both {other.package} and {entry.package}; remove one")
            if entry.symbol is not None and other.symbol == entry.symbol:
                raise ConfigError(
                    f"symbol {entry.symbol!r} is claimed by both {other.kind!r} of {other.package} and "
                    f"{kind!r} of {entry.package}; remove one or change its symbol"
                )
        found[kind] = entry
    return found


def mixer(kind: str) -> Registered:
    """The mixer registered as `kind`. Raises ConfigError with the nearest names for an unknown one."""
    table = mixers()
    if kind not in table:
        raise ConfigError(unknown_name("mixer", kind, table))
    return table[kind]


def _load(point: EntryPoint) -> type[Mixer]:
    try:
        loaded = point.load()
    except EyasError:
        raise
    except Exception as error:  # whatever somebody's module raises as it is imported
        raise ConfigError(
            f"mixer {point.name!r} of {_package(point)} does not load ({_reason(error)}); mend or remove it"
        ) from error
    config = getattr(loaded, "Config", None)
    if getattr(config, "kind", None) != point.name:
        raise ConfigError(
            f"entry point {point.name!r} of {_package(point)} must name a class decorated with "
            f"@register({point.name!r})"
        )
    return loaded


def _reason(error: Exception) -> str:
    """What was wrong with a module, and in which line of it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    if "importlib" in last.filename:  # the module or class that the entry point names is not there
        return str(error)
    return f"{last.filename}, line {last.lineno}: {type(error).__name__}: {error}".partition("\n")[0]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
