"""HTML in which every text is escaped unless it was made here."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is HTML already."""


def element(name: str, *children: str | None, **attributes: object) -> Markup:
    """An element; children that are no Markup are text. An attribute that is True stands without a value, one that is
    None or False is left out; `class_` is class, and an underscore in a name is a hyphen."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{written}>{joined(*children)}" + ("" if name in ("input", "img", "col") else f"</{name}>"))


def joined(*children: str | None) -> Markup:
    """Children beside one another."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child))
