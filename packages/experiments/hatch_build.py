"""Ships the repository's conf/ as eyas/experiments/conf; an editable install reads it where it stands."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfHook(BuildHookInterface[Any]):
    """Adds conf/ to wheels, and to source distributions so that wheels can be built from them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        unpacked, repository = Path(self.root, "conf"), Path(self.root).parents[1] / "conf"
        conf = unpacked if unpacked.is_dir() else repository
        build_data["force_include"][str(conf)] = "conf" if self.target_name == "sdist" else "eyas/experiments/conf"
