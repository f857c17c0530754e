"""Hydra's errors as one clear line each."""

from __future__ import annotations

import re

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eyas.core.errors import ConfigError
from eyas.core.nearest import unknown_name
from eyas.experiments.compose import conf_folder, register_schemas

UPSTREAM = (HydraException, OmegaConfBaseException)
"""What composing may raise besides our own errors."""


def explain(error: Exception) -> ConfigError:
    """A ConfigError that says in one line what was wrong, where, and what to do."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={name}: {unknown_name(f'{group} option', name, error.options)}")
    text = " ".join(str(error).split())
    if match := re.match(r"Could not override '([^']+)'", text):
        return unknown_key(match[1])
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return ConfigError(f"{match[1]} exists already; leave the + away to change it")
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        return ConfigError(f"${{{match[1]}}} names no option; check the spelling in the configuration file")
    text = re.sub(r" ?(See https?://\S+.*|full_key: .*|object_type=.*)$", "", text)
    return ConfigError(text)


def unknown_key(path: str) -> ConfigError:
    """The answer to an override of an option that does not exist: the nearest ones at the same place."""
    parent, _, name = path.rpartition(".")
    node = OmegaConf.select(default_config(), parent) if parent else default_config()
    if not isinstance(node, DictConfig):
        return ConfigError(f"{path}: there is no option {parent or path!r}; see eyas train --cfg job for those that exist")
    return ConfigError(f"{path}: {unknown_name('option', name, map(str, node))}")


def default_config() -> DictConfig:
    """What composes without any override."""
    from hydra import compose, initialize_config_dir

    register_schemas()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("train")
