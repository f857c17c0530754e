"""Ships the repository's conf/ and its example mixer inside the package; an editable install reads them where they
stand."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = {
    "conf": ("conf", ("**/*.yaml",)),
    "example": ("examples/gated_conv", ("pyproject.toml", "README.md", "src/*.py", "tests/test_gated_conv.py")),
}
"""Folder in the package: folder of the repository, and which of its files."""


class SharedFilesHook(BuildHookInterface[Any]):
    """Adds the files to wheels, and to source distributions so that wheels can be built from them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        package, repository = Path(self.root), Path(self.root).parents[1]
        inside = Path() if self.target_name == "sdist" else Path("eyas/experiments")
        for name, (folder, patterns) in SHIPPED.items():
            source = package / name if (package / name).is_dir() else repository / folder
            for path in (path for pattern in patterns for path in source.glob(pattern)):
                build_data["force_include"][str(path)] = str(inside / name / path.relative_to(source))
