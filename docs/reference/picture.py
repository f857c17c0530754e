"""SVG in a few words: boxes, text and lines that read well on light and on dark pages."""

from __future__ import annotations

from html import escape

BLUE, ORANGE, GREEN, VIOLET, GREY = "#3b78b4", "#b8622a", "#3c8656", "#7d5fb2", "#8a93a0"
"""Middle tones: white text is readable on them, and they stand out from both white and black."""
STYLE = "<style>.picture{color:#24292f}@media(prefers-color-scheme:dark){.picture{color:#d7dde4}}</style>"
"""The colour of lines and labels where the file is shown by itself; a page that holds it gives its own."""
FONT = 'font-family="system-ui,sans-serif"'


class Picture:
    """A drawing of fixed size, in pixels; y runs downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str, text: str = "", size: int = 12) -> None:
        """A filled box with white text in its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}" '
            'stroke="currentColor" stroke-opacity=".35"/>'
        )
        if text:
            self._text(x + width / 2, y + height / 2 + size * 0.36, text, size, "middle", "#fff")

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """A dashed outline."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="none" '
            'stroke="currentColor" stroke-opacity=".6" stroke-dasharray="4 3"/>'
        )

    def label(self, x: float, y: float, text: str, size: int = 13, anchor: str = "start") -> None:
        """Text in the page's colour."""
        self._text(x, y, text, size, anchor, "currentColor")

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A line with a head at its end."""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="currentColor" stroke-width="1.4" '
            'marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        """The file."""
        head = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
        )
        return "\n".join(
            [
                f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" role="img" {FONT}>',
                f"<title>{escape(self.title)}</title>",
                STYLE,
                head,
                *self.parts,
                "</svg>\n",
            ]
        )

    def _text(self, x: float, y: float, text: str, size: int, anchor: str, fill: str) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
        )
