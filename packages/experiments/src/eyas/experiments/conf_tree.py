"""Where the configuration tree is, and the options of mixers in it; without Hydra, which takes a while to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyas.core.mixer_config import MixerConfig
from eyas.core.schema import REQUIRED, defaults


def mixer_options(config: type[MixerConfig]) -> dict[str, Any]:
    """A mixer's options with their defaults; null for sizes that the model's width decides where nothing else does."""
    options = defaults(config)
    return options | {name: None for name in config.sizes_for(1) if options[name] == REQUIRED}


def conf_folder() -> Path:
    """The configuration tree: beside this package where it is installed, else at the root of the source tree."""
    installed = Path(__file__).with_name("conf")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "conf"
