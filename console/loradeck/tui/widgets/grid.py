"""The live table: lines drawn by ourselves, only the changed ones repainted, the selection held by key."""

from collections.abc import Callable, Hashable
from typing import Any

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from loradeck.tui.model.lists import Listing
from loradeck.tui.text.spans import BLANK, Line, Span
from loradeck.tui.text.theme import CURSOR, OLD
from loradeck.tui.widgets.lines import changed_to, strip_of

Drawn = tuple[Line, bool, bool]
"""A line's spans, whether it is selected, whether its figures are old."""


class Grid(Widget):
    """A window on a `Listing`. It holds no rows: `draw` makes a row's line when it comes into view."""

    DEFAULT_CSS = """
    Grid { height: 1fr; width: 100%; }
    """

    def __init__(self, draw: Callable[[Any, Span, int], Line], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw = draw
        self._order: list[Hashable] = []
        self._selected: Hashable | None = None
        self._marks: frozenset[Hashable] = frozenset()
        self._old = False
        self._message = ""
        self._top = 0
        self._now: dict[int, Drawn] = {}  # lines as of the last sync; drawing them twice is most of a frame's time
        self._drawn: dict[int, Drawn] = {}

    @property
    def page(self) -> int:
        """Rows that fit."""
        return max(1, self.size.height)

    @property
    def rows_in_view(self) -> tuple[int, int]:
        """First and last visible row, counted from 1; (0, 0) when there are none."""
        if not self._order:
            return (0, 0)
        return (self._top + 1, min(len(self._order), self._top + self.page))

    @property
    def in_view(self) -> list[Hashable]:
        """Keys of the rows in view."""
        return self._order[self._top : self._top + self.page]

    @property
    def near(self) -> slice:
        """The part of the list that is in view, and a page before and after it."""
        return slice(max(0, self._top - self.page), self._top + 2 * self.page)

    def sync(
        self, listing: Listing[Any], *, marks: frozenset[Hashable] = frozenset(), old: bool = False, message: str = ""
    ) -> None:
        """Show the list as it is now; lines that look the same are left alone.

        Args:
            old: the figures are not live; rows are greyed.
            message: shown in place of rows when there are none.
        """
        index = listing.index
        self._order = list(listing.order)
        self._selected = listing.selected if index is not None else None
        self._marks = marks
        self._old = old
        self._message = message
        if index is not None:
            self._bring_into_view(index)
        self._top = max(0, min(self._top, len(self._order) - self.page))
        width, height = self.size
        for y in range(height):
            before, after = self._drawn.get(y), self._line(y, width)
            self._now[y] = after
            if before == after:
                continue
            end = width
            if before is not None and before[1:] == after[1:] == (False, False):
                end = changed_to(before[0], after[0], end)
            if end:
                self.refresh(Region(0, y, end, 1))

    def _bring_into_view(self, index: int) -> None:
        """Scroll by half a page when the selection leaves the window: one repaint for many steps."""
        if index < self._top:
            self._top = max(0, min(index, index - self.page // 2 + 1))
        elif index >= self._top + self.page:
            self._top = max(index - self.page + 1, index - self.page // 2)

    def _line(self, y: int, width: int) -> Drawn:
        at = self._top + y
        if not self._order:
            return ((Span(f"  {self._message}", "dim"),) if y == 1 else BLANK, False, False)
        if at >= len(self._order):
            return (BLANK, False, False)
        key = self._order[at]
        selected = key == self._selected
        lead = Span((">" if selected else " ") + ("*" if key in self._marks else " "))
        return (self._draw(key, lead, width), selected, self._old)

    def on_resize(self) -> None:
        """Draw every line anew."""
        self._now.clear()
        self._drawn.clear()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draws one line of the list."""
        width = self.size.width
        spans, selected, old = self._drawn[y] = self._now.get(y) or self._line(y, width)
        over = CURSOR if selected else None
        if old:
            over = over + OLD if over else OLD
        return strip_of(spans, width, over)

    @property
    def text(self) -> str:
        """The visible rows, without styles."""
        width, height = self.size
        return "\n".join("".join(span.text for span in self._line(y, width)[0]) for y in range(height))
