"""A block of styled lines that repaints only the lines that changed. Everything else here is made of it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from loradeck.tui.text.spans import BLANK, Line, fit_line
from loradeck.tui.text.theme import STYLES


def strip_of(spans: Line, width: int, over: Style | None = None) -> Strip:
    """A line as Textual draws it, in exactly `width` cells. Text is data: it is never parsed for markup."""
    segments: list[Segment] = []
    for text, style in joined(fit_line(spans, width), over=over):
        segments.append(Segment(text, style))
    return Strip(segments, width)


def joined(spans: Line, *, over: Style | None) -> Iterator[tuple[str, Style]]:
    """Neighbours that look alike as one piece: each piece costs a sequence before it and one after."""
    for style, alike in groupby(spans, lambda span: STYLES[span.style] + over if over else STYLES[span.style]):
        yield "".join(span.text for span in alike), style


def changed_to(before: Line, after: Line, width: int) -> int:
    """The column before which a line has changed; 0: it looks the same. To the right nothing is written again."""
    old, new = _cells(before, width), _cells(after, width)
    if old is None or new is None:
        return width if before != after else 0
    at = width
    while at and old[at - 1] == new[at - 1]:
        at -= 1
    return at


def _cells(spans: Line, width: int) -> list[tuple[str, str]] | None:
    """Each cell's character and style; None where a character takes another number of cells than one."""
    cells: list[tuple[str, str]] = []
    for text, style in spans:
        if not text.isascii() and cell_len(text) != len(text):
            return None
        cells += [(char, style) for char in text]
    if len(cells) > width:
        return None  # cut with an ellipsis
    return cells + [(" ", "")] * (width - len(cells))


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

    def show(self, lines: Sequence[Line]) -> set[int]:
        """Show these lines; only those that differ are drawn again, and returned by their numbers."""
        before, self._lines = self._lines, list(lines)
        changed: set[int] = set()
        for y in range(max(len(before), len(self._lines))):
            old = before[y] if y < len(before) else BLANK
            new = self._lines[y] if y < len(self._lines) else BLANK
            if old != new and y < self.size.height and (end := changed_to(old, new, self.size.width)):
                changed.add(y)
                self.refresh(Region(0, y, end, 1))
        return changed

    def render_line(self, y: int) -> Strip:
        """Draws one line; blank beyond the last."""
        return strip_of(self._lines[y] if y < len(self._lines) else BLANK, self.size.width)
