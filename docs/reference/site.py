"""What mkdocs calls: adds the front page and the generated pages, arranges all of them, and checks what was built.

Generated pages are made while the site is built, from the classes and schemas that they describe.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from links import inside_docs  # noqa: E402
from mixer_pages import mixer_pages  # noqa: E402
from navigation import navigation  # noqa: E402
from option_pages import command_page, option_page  # noqa: E402

WARN = logging.getLogger("mkdocs.plugins.eyas").warning
"""What `--strict` counts."""
PICTURE = re.compile(r'<img alt="[^"]*" src="(?:\.\./)*(pictures/[\w-]+\.svg)" ?/?>')
STYLE = re.compile(r"<style>.*?</style>")
FETCHED = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//""")
"""What a page would ask a network for."""


def generated_pages() -> dict[str, str]:
    """Markdown by place in the site."""
    pages = {"index.md": inside_docs((ROOT / "README.md").read_text(), "README.md", WARN)}
    pages |= {f"reference/{name}": text for name, text in mixer_pages().items()}
    return pages | {"reference/options.md": option_page(), "reference/commands.md": command_page()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and arranges all of them."""
    for place, text in generated_pages().items():
        files.append(File.generated(config, place, content=text))
    config.nav = navigation([file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ have nothing to lead to in the site."""
    return inside_docs(markdown, f"docs/{page.file.src_uri}", WARN) if not page.file.generated_by else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts pictures into the page, whose colours they take, in place of links to their files."""
    return PICTURE.sub(lambda found: STYLE.sub("", (ROOT / "docs" / found[1]).read_text()), html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses pages that need a network."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {found[0]!r}")
    return output
