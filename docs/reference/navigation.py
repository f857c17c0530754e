"""The order of the site's pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("first-run.md", "ablation.md", "questions.md"),
    "Guides": (
        "layouts.md", "data.md", "training.md", "tasks.md", "blocks.md", "mixers.md", "growth.md", "evaluation.md",
        "further-tokens.md",
    ),
    "Experiments": ("experiments.md", "sweeps.md", "metrics.md", "report.md"),
}  # fmt: skip
"""Pages by section, in order; those that do not exist are passed over."""
FRONT = "index.md"
REST = "Guides"
"""The section of pages that stand in none."""


def navigation(pages: Sequence[str]) -> list[Any]:
    """mkdocs' `nav` for the pages, places relative to docs/: none is left out."""
    placed = {page for section in SECTIONS.values() for page in section}
    mixers = sorted((page for page in pages if page.startswith("reference/mixers/")), key=_index_first)
    reference = sorted(page for page in pages if page.startswith("reference/") and page not in mixers)
    decisions = sorted(page for page in pages if page.startswith("decisions/"))
    known = {FRONT, *placed, *mixers, *reference, *decisions}
    nav: list[Any] = [FRONT]
    for name, section in SECTIONS.items():
        further = sorted(page for page in pages if page not in known) if name == REST else []
        nav.append({name: [page for page in section if page in pages] + further})
    nav += [{"Mixers": mixers}, {"Reference": reference}, {"Decisions": decisions}]
    return [part for part in nav if isinstance(part, str) or all(part.values())]


def _index_first(page: str) -> tuple[bool, str]:
    return not page.endswith("/index.md"), page
