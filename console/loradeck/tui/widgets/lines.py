"""A block of styled lines that repaints only the lines that changed. Everything else here is made of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from loradeck.tui.text import BLANK, Line, fit_line
from loradeck.tui.theme import STYLES


def strip_of(spans: Line, width: int, over: Style | None = None) -> Strip:
    """A line as Textual draws it, in exactly `width` cells. Text is data: it is never parsed for markup."""
    segments = [
        Segment(span.text, STYLES[span.style] + over if over else STYLES[span.style]) for span in fit_line(spans, width)
    ]
    return Strip(segments, width)


class Lines(Widget):
    """Lines from top to bottom, cut to the widget's size."""

    DEFAULT_CSS = """
    Lines { height: 1; width: 100%; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Line] = []

    @property
    def text(self) -> str:
        """What it shows, without styles."""
        return "\n".join("".join(span.text for span in spans) for spans in self._lines)

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines; only those that differ are drawn again."""
        before, self._lines = self._lines, list(lines)
        for y in range(max(len(before), len(self._lines))):
            old = before[y] if y < len(before) else BLANK
            new = self._lines[y] if y < len(self._lines) else BLANK
            if old != new and y < self.size.height:
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        return strip_of(self._lines[y] if y < len(self._lines) else BLANK, self.size.width)
