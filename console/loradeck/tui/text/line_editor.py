"""A line of text being typed. Knows no toolkit: keys go in by name, spans come out."""

from dataclasses import dataclass, field

from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.tui.text.spans import Line, Span

LONGEST = 500
"""Characters that a reason may have."""


KEPT = 100
"""Lines that a history holds."""


@dataclass
class Recall:
    """Lines typed before, oldest first, and where one is in going through them."""

    lines: list[str] = field(default_factory=list)
    _at: int | None = None
    _typing: str = ""

    def add(self, text: str) -> None:
        """A line was given. One that is there already moves to the end."""
        text = text.strip()
        if text:
            self.lines = [*(line for line in self.lines if line != text), text][-KEPT:]
        self._at = None

    def begin(self) -> None:
        """A new line is typed: the next step back is the newest."""
        self._at = None

    def step(self, by: int, typed: str) -> str:
        """The line before (-1) or after (1) the one that is shown; past the newest comes what was being typed."""
        at = len(self.lines) if self._at is None else self._at
        if self._at is None:
            self._typing = typed
        to = max(0, min(at + by, len(self.lines)))
        self._at = to
        return self.lines[to] if to < len(self.lines) else self._typing


@dataclass
class TypedLine:
    """The text and the cursor's place in it, in characters."""

    text: str = ""
    at: int = 0

    def insert(self, typed: str) -> None:
        """Typed or pasted text; only its first line is taken."""
        lines = typed.splitlines()
        room = max(0, LONGEST - len(self.text))
        kept = clean(lines[0])[:room] if lines else ""
        self.text = self.text[: self.at] + kept + self.text[self.at :]
        self.at += len(kept)

    def replace(self, text: str) -> None:
        """Replaces the text, with the cursor at its end."""
        self.text = text
        self.at = len(text)

    def key(self, name: str) -> bool:
        """Applies an editing key; returns False when it is none."""
        match name:
            case "backspace":
                self.text = self.text[: max(0, self.at - 1)] + self.text[self.at :]
                self.at = max(0, self.at - 1)
            case "delete" | "ctrl+d":
                self.text = self.text[: self.at] + self.text[self.at + 1 :]
            case "left" | "ctrl+b":
                self.at = max(0, self.at - 1)
            case "right" | "ctrl+f":
                self.at = min(len(self.text), self.at + 1)
            case "home" | "ctrl+a":
                self.at = 0
            case "end" | "ctrl+e":
                self.at = len(self.text)
            case "ctrl+u":
                self.text, self.at = self.text[self.at :], 0
            case "ctrl+k":
                self.text = self.text[: self.at]
            case "ctrl+w":
                start = len(self.text[: self.at].rstrip().rpartition(" ")[0])
                self.text, self.at = self.text[:start] + self.text[self.at :], start
            case _:
                return False
        return True

    def spans(self, width: int) -> Line:
        """The text with its cursor, scrolled so that the cursor is in view."""
        before, under, after = self.text[: self.at], self.text[self.at : self.at + 1] or " ", self.text[self.at + 1 :]
        while before and cell_len(before) + cell_len(under) > width:
            before = before[1:]
        return (Span(before), Span(under, "bar"), Span(after))
