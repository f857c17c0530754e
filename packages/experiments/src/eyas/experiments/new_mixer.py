"""`eyas new-mixer`: a package of your own with a mixer that works, copied from the example under another name."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from eyas.core.errors import ConfigError
from eyas.core.registry import mixers, register

EXAMPLE = "gated_conv"
FILES = ("pyproject.toml", "README.md", "src/*.py", "tests/test_gated_conv.py")
"""What of the example is copied."""


def new_mixer(name: str, symbol: str | None = None, folder: Path | None = None) -> Path:
    """Writes the package of a mixer called `name`, with `symbol` as its letter, to `folder` (by default ./name) and
    returns where. Raises ConfigError for a name, symbol or folder that is taken or cannot be one."""
    kind = name.replace("-", "_")
    check_name(name, kind)
    check_symbol(kind, symbol)
    target = folder or Path(kind)
    source = example_folder()
    files = {path.relative_to(source): path.read_text() for pattern in FILES for path in sorted(source.glob(pattern))}
    old, new = spellings(EXAMPLE), spellings(kind)
    taken = words(text for path, text in files.items() if path.suffix == ".py")
    if keyword.iskeyword(new[-1]) or new[-1] in taken:
        raise ConfigError(f"{name!r} would call its class {new[-1]}, which is taken; choose another name")
    try:
        target.mkdir(parents=True)
        for path, text in files.items():
            written = target / renamed(str(path), old, new)
            written.parent.mkdir(exist_ok=True)
            written.write_text(renamed(with_symbol(text, symbol), old, new))
    except FileExistsError as error:
        raise ConfigError(f"{target} exists already; choose another name, or --folder=PATH") from error
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written ({error.strerror}); choose another place with --folder"
        ) from error
    return target


def print_new_mixer(name: str, symbol: str | None, folder: Path | None) -> None:
    """Writes the package and says what to do with it."""
    target = new_mixer(name, symbol, folder)
    (module,) = target.glob("src/*.py")
    kind = name.replace("-", "_")
    print(f"{target} holds a mixer that works; make it yours in {module}\n")
    print(f"  pip install -e '{target}[testing]'")
    print(f"  pytest {target}")
    print(f"  eyas train layer@model.layers.ssm={kind}")


def check_name(name: str, kind: str) -> None:
    """Raises ConfigError for what cannot name a mixer, or names one already."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name):
        raise ConfigError(
            f"{name!r} cannot name a mixer; use small letters, digits and underscores, such as gated_delta"
        )
    if kind in mixers():
        raise ConfigError(f"mixer {kind!r} is registered already, by {mixers()[kind].package}; choose another name")
    package = f"eyas-{kind.replace('_', '-')}"
    try:
        distribution(package)
    except PackageNotFoundError:
        return
    raise ConfigError(f"a package {package} is installed already; choose another name than {name!r}")


def check_symbol(kind: str, symbol: str | None) -> None:
    """Raises ConfigError for what cannot be a symbol, or is one already."""
    register(kind, symbol=symbol)
    for entry in mixers().values():
        if symbol is not None and entry.symbol == symbol:
            raise ConfigError(f"symbol {symbol!r} belongs to {entry.kind!r} of {entry.package}; choose another letter")


def example_folder() -> Path:
    """The example package: beside this module where it is installed, else at the root of the source tree."""
    installed = Path(__file__).with_name("example")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "examples" / EXAMPLE


def spellings(kind: str) -> tuple[str, str, str]:
    """How a mixer is written in code, in package names and as a class: gated_conv, gated-conv, GatedConv."""
    return kind, kind.replace("_", "-"), "".join(word.capitalize() for word in kind.split("_"))


def words(modules: Iterable[str]) -> set[str]:
    """Every name that the code of some modules uses."""
    return {token.string for text in modules for token in tokenize.generate_tokens(io.StringIO(text).readline)}


def renamed(text: str, old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """The text with every spelling of the old name replaced by that of the new one."""
    for before, after in zip(old, new, strict=True):
        text = text.replace(before, after)
    return text


def with_symbol(text: str, symbol: str | None) -> str:
    """The text with the symbol in its registration."""
    plain = f'@register("{EXAMPLE}")'
    return text if symbol is None else text.replace(plain, f'@register("{EXAMPLE}", symbol="{symbol}")')
