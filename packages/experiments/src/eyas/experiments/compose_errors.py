"""Hydra's errors as one clear line each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eyas.core.errors import ConfigError, EyasError
from eyas.core.nearest import unknown_name
from eyas.experiments.compose import SCHEMAS, register_schemas, search_path
from eyas.experiments.conf_tree import conf_folder

UPSTREAM = (HydraException, OmegaConfBaseException)
"""What composing may raise besides our own errors."""
GROUPS = ("model", "layer", "experiment", "task", *SCHEMAS)
"""Groups whose choice is an override such as model=falcon_h1_tiny."""

MOST_NAMED = 4
"""Places where an option stands that are offered for one where it does not."""
PLUGINS = {"hydra/launcher": ("joblib", "submitit_local", "submitit_slurm"), "hydra/sweeper": ("optuna",)}
"""What the optional extra `sweeps` brings."""


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises ConfigError for what Hydra would answer with a traceback."""
    for override in overrides:
        if re.match(r"\+*hydra\.(run|sweep)\.", override):
            raise ConfigError(
                f"{override!r}: run folders are named by runs and name, such as runs=/data/runs name=first"
            )
        name, equals, value = override.partition("=")
        group = name.lstrip("+~").partition("@")[0]
        if equals and not name.strip():
            raise ConfigError(f"{override!r} names no option before the equals sign; write option=value")
        if equals and group in GROUPS and re.fullmatch(r"null|true|false|[\d.]*", value):
            raise ConfigError(f"{override!r} names no {group}; write {name}= and a name out of conf/{group}")


def explain(error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """One line that says what was wrong, where, and what to do; `overrides` are all that the command line gave."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if name in PLUGINS.get(group, ()):
            return ConfigError(f"{group}={name} needs a plugin of Hydra's; pip install 'eyas-experiments[sweeps]'")
        what = "mixer or preset" if group == "layer" else group
        asked = (o for o in overrides if o.lstrip("+").startswith(group) and o.endswith(f"={name}"))
        return ConfigError(f"{next(asked, f'{group}={name}')}: {unknown_name(what, name, error.options)}")
    if isinstance(error, OverrideParseException):
        if error.override.count("[") != error.override.count("]"):
            return ConfigError(f"{error.override!r} opens or closes a bracket too often")
        name, equals, value = error.override.partition("=")
        plain = equals and not re.search(r"""['"$`!\\]""", value)
        mended = f"\"{name}='{value}'\" (quotes that the shell leaves)" if plain else "option=value"
        return ConfigError(f"{error.override!r} cannot be read; write {mended}")
    text = " ".join(str(error).split())
    if match := re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", text):
        if match[1].lstrip("+").partition("@")[0] in GROUPS:
            return ConfigError(f"{match[1]}={match[2]} are choices for several runs; add -m")
        return ConfigError(
            f"{match[1]}={match[2]} may be one list or several runs; write '{match[1]}=[{match[2]}]', or add -m"
        )
    if match := re.match(r"Could not override '([^']+)'", text):
        return unknown_key(match[1], overrides)
    if match := re.match(r"Override \S+ looks like a config group override, but config group '([^']+)'", text):
        return ConfigError(f"{match[1]}: {unknown_name('group', match[1], GROUPS)}")
    if match := re.match(r"Multiple values for (\S+)\. ", text):
        return ConfigError(f"{match[1]} is chosen already; leave the + away to change it")
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return ConfigError(f"{match[1]} exists already; leave the + away to change it")
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        return ConfigError(f"${{{match[1]}}} names no option; check its spelling")
    text = re.sub(r" ?(See https?://\S+.*|full_key: .*|object_type=.*)$", "", text)
    return ConfigError(text)


def with_hint(error: EyasError, overrides: Sequence[str]) -> EyasError:
    """The error, and what to write instead where an override changed a layer's kind and left it the other's options."""
    for override in overrides:
        changed = re.fullmatch(r"(model\.layers\.\w+)\.kind=(\w+)", override)
        if changed and re.match(rf"{re.escape(changed[1])}(?!\.kind)\b", str(error)):
            return type(error)(f"{error}; another mixer with options of its own is layer@{changed[1]}={changed[2]}")
    return error


def unknown_key(path: str, overrides: Sequence[str]) -> ConfigError:
    """The answer to an override of what does not exist: the nearest names at the same place."""
    _, at, place = path.rpartition("@")
    parent, _, name = place.rpartition(".")
    composed = chosen(overrides)
    node = OmegaConf.select(composed, parent) if parent else composed
    elsewhere = [full for full in options(composed) if full.rpartition(".")[2] == name]
    near = f"did you mean {' or '.join(map(repr, elsewhere[:MOST_NAMED]))}?"
    if not isinstance(node, DictConfig):
        if elsewhere:
            return ConfigError(f"{path}: unknown option; {near}")
        return ConfigError(f"{path}: there is no option {parent!r}; see eyas train --cfg job for those that exist")
    if name in node:
        return ConfigError(f"{path} exists, but lacks what it is given; add that with a +, such as +{path}.NAME=...")
    if at:
        return ConfigError(f"{path}: {unknown_name('layer', name, map(str, node))}; or add a new one with +{path}=...")
    if elsewhere:
        return ConfigError(f"{path}: unknown option; {near}")
    if parent == "model.blocks":
        return ConfigError(f"{path}: {unknown_name('block', name, map(str, node))}; or add a new one with +{path}=...")
    return ConfigError(f"{path}: {unknown_name('option', name, map(str, node))}")


def options(node: DictConfig, above: str = "") -> Iterator[str]:
    """Every option below a node, by its dotted name."""
    for name in map(str, node):
        full = f"{above}{name}"
        yield full
        if not OmegaConf.is_missing(node, name) and isinstance(inner := node._get_node(name), DictConfig):
            yield from options(inner, f"{full}.")


def chosen(overrides: Sequence[str]) -> DictConfig:
    """What composes from the choices of groups among the overrides, without any other, and without those that do not
    compose."""
    from hydra import compose, initialize_config_dir

    register_schemas()
    groups = [override for override in overrides if override.lstrip("+").partition("=")[0].partition("@")[0] in GROUPS]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed, kept = compose("train"), search_path(overrides)
        for choice in sorted(groups, key=lambda override: ("@" in override, not override.startswith("+"))):
            with suppress(*UPSTREAM):
                composed = compose("train", [*kept, choice])
                kept = [*kept, choice]
        return composed
