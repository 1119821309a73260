"""The floor of the console: a Textual app that shows sixteen lines, of which a key marks another one.

What it takes to start, and from a key to its paint, no app on Textual can leave out.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

LINES = 16


class Lines(Widget):
    """The lines. `at`: the marked one."""

    DEFAULT_CSS = "Lines { height: 1fr; }"
    at = 0

    def render_line(self, y: int) -> Strip:
        text = f"line {y:02}" if y < LINES else ""
        style = Style(bgcolor="blue") if y == self.at else Style()
        return Strip([Segment(text.ljust(self.size.width), style)], self.size.width)

    def mark(self, line: int) -> None:
        """Marks this line, and the one before no more."""
        before, self.at = self.at, max(0, min(LINES - 1, line))
        self.refresh(*(Region(0, y, self.size.width, 1) for y in (before, self.at)))


class BareList(App[None]):
    """`j` and `k` move the mark."""

    BINDINGS: ClassVar = [("j", "move(1)", "Down"), ("k", "move(-1)", "Up")]

    def compose(self) -> ComposeResult:
        yield Lines()

    def action_move(self, by: int) -> None:
        lines = self.query_one(Lines)
        lines.mark(lines.at + by)


if __name__ == "__main__":
    BareList().run(mouse=False)
