"""Links of a page as the site can follow them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
"""Text, file and anchor of a link to another file."""
README = "README.md"
"""Is the site's front page."""


def inside_docs(markdown: str, path: str, warn: Callable[[str], None]) -> str:
    """The page at `path` of the repository, with links to other pages relative to docs/ and links to source files made
    plain text. Warns of files that do not exist; those below docs/ are left to mkdocs."""
    here = "docs" if path == README else posixpath.dirname(path)

    def link(found: re.Match[str]) -> str:
        text, file, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if target == README:
            return f"[{text}]({posixpath.relpath('docs/index.md', here)}{anchor})"
        if target.startswith("docs/"):
            return f"[{text}]({posixpath.relpath(target, here)}{anchor})"
        if not (ROOT / target).exists():
            warn(f"{path}: {file} leads nowhere")
        return text if "`" in text or text == target else f"{text} (`{target}`)"

    return LINK.sub(link, markdown)
