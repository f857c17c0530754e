"""The package that docs/mixers.md describes, put together from its code blocks."""

import re
from pathlib import Path

from eyas.experiments.new_mixer import new_mixer

PAGE = Path(__file__).parents[1] / "docs" / "mixers.md"


def blocks(path: Path, *languages: str) -> list[str]:
    """Text of a page's fenced blocks in these languages; "" is a block that names none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def write_page_mixer(folder: Path) -> None:
    """Writes the new mixer that the page begins with, and makes of it what the page does."""
    new_mixer("token-shift", "T", folder)
    module, tests = blocks(PAGE, "python")
    (entry_point,) = blocks(PAGE, "toml")
    assert entry_point in (folder / "pyproject.toml").read_text()
    (folder / "src" / "eyas_token_shift.py").write_text(module)
    (folder / "tests" / "test_token_shift.py").write_text(tests)
