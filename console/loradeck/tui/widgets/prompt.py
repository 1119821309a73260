"""Above the footer: a notice, or a filter, a command, a reason or a time being typed."""

from enum import StrEnum

from textual import events

from loradeck.tui.keys.default_bindings import complete
from loradeck.tui.text.line_editor import Recall, TypedLine
from loradeck.tui.text.spans import Span, line, wrapped
from loradeck.tui.widgets.lines import Lines


class Asking(StrEnum):
    """The kind of text being typed; the value stands in front of it."""

    FILTER = "/"
    COMMAND = ":"
    REASON = "reason> "
    MOMENT = "back to> "
    INCIDENT = "incident> "


NOTICE_LINES = 3
"""Lines that a notice may take. A longer one is cut."""


class Prompt(Lines):
    """Shows a notice until it is opened. It handles keys by itself, at once: no key can fall between two focuses.

    Only while it is open does pasted text mean anything.
    """

    def __init__(self) -> None:
        super().__init__(id="prompt")
        self.asking: Asking | None = None
        self._typed = TypedLine()
        self._recall: Recall | None = None
        self._notice = ("", "")
        self._height = 1

    def show_notice(self, text: str, style: str = "") -> None:
        """Replace the notice. It is visible while nothing is being typed."""
        self._notice = (text, style)
        self._draw()

    @property
    def notice(self) -> str:
        """The text of the notice."""
        return self._notice[0]

    @property
    def height(self) -> int:
        """Lines that it takes: one, or as many as a long notice needs."""
        return self._height

    @property
    def value(self) -> str:
        """The text typed so far."""
        return self._typed.text

    def open(self, asking: Asking, text: str = "", recall: Recall | None = None) -> None:
        """Open the line for typing. `recall`: the earlier lines that up and down go through."""
        self.asking = asking
        self._recall = recall
        if recall is not None:
            recall.begin()
        self._typed.replace(text)
        self._draw()

    def close(self) -> None:
        """Keys are commands again."""
        self.asking = None
        self._draw()

    def key(self, event: events.Key) -> bool:
        """Handle a key while the line is open. Returns whether the text changed."""
        before = self._typed.text
        if event.key == "tab":
            if self.asking is Asking.COMMAND:
                self._typed.replace(complete(self._typed.text))
        elif event.key in ("up", "down") and self._recall is not None:
            self._typed.replace(self._recall.step(-1 if event.key == "up" else 1, before))
        elif not self._typed.key(event.key) and event.is_printable and event.character:
            self._typed.insert(event.character)
        self._draw()
        return before != self._typed.text

    def paste(self, text: str) -> None:
        """Pasted text; its first line."""
        self._typed.insert(text)
        self._draw()

    def fit(self) -> None:
        """Break the notice anew where the terminal has another width."""
        if self.asking is None:
            self._draw()

    def _draw(self) -> None:
        if self.asking is None:
            text, style = self._notice
            width = self.size.width - 2
            parts = wrapped(text, width) if width > 0 else [text]
            if len(parts) > NOTICE_LINES:
                parts[NOTICE_LINES - 1 :] = [" ".join(parts[NOTICE_LINES - 1 :])]
            self._take_lines(len(parts) or 1)
            self.show([line(Span(f" {part}", style)) for part in parts])
            return
        self._take_lines(1)
        lead = f" {self.asking.value}"
        notice_text = f"   {self._notice[0]}" if self._notice[0] else ""
        room = max(8, self.size.width - len(lead) - 1)
        self.show([(Span(lead, "question"), *self._typed.spans(room), Span(notice_text, self._notice[1]))])

    def _take_lines(self, height: int) -> None:
        if self._height != height:
            self._height = height
            self.styles.height = height
