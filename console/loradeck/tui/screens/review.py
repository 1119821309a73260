"""A candidate's sampled answers, one at a time: each is found good or bad, and why, and V goes on to sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from loradeck.tui.lines.review_sheet import item_lines, review_head
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.terminal.driver import together
from loradeck.tui.text.line_editor import TypedLine
from loradeck.tui.text.spans import BLANK, Line, Span, line, spread
from loradeck.tui.widgets.lines import Lines

if TYPE_CHECKING:
    from loradeck.tui.app import Deck


class ReviewScreen(Screen[bool], inherit_bindings=False):
    """Ends with whether the review is to be signed."""

    DEFAULT_CSS = """
    ReviewScreen { layout: vertical; background: ansi_default; color: ansi_default; overflow: hidden; }
    ReviewScreen #body { height: 1fr; }
    """

    def __init__(self, reviewing: Reviewing) -> None:
        super().__init__(name="review")
        self.reviewing = reviewing
        self.body = Lines(id="body")
        self.bar = Lines(id="bar")
        self._top = 0
        self._left = False
        self._note: TypedLine | None = None  # while what is wrong is being typed

    def compose(self) -> ComposeResult:
        yield self.body
        yield self.bar

    @property
    def deck(self) -> Deck:
        return cast("Deck", self.app)

    def on_mount(self) -> None:
        self.run_worker(self._fetch())
        self.show()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    async def _fetch(self) -> None:
        await self.deck.asker.sheet(self.reviewing)
        self.show()

    def show(self, told: str = "") -> None:
        """Draw what is known now. `told`: said instead of the keys."""
        width, height = self.body.size
        if not self.is_mounted or not width or not height:
            return
        head = [*review_head(self.deck.state, self.reviewing, width), BLANK]
        item = item_lines(self.reviewing, width)
        room = max(1, height - len(head))
        self._top = max(0, min(self._top, len(item) - room))
        self.body.show([*head, *item[self._top : self._top + room]])
        if self._note is not None:
            lead = " what is wrong> "
            self.bar.show([(Span(lead, "question"), *self._note.spans(width - len(lead) - 1))])
            return
        said = "+ good   - bad   n bad, and why   j/k answers   V sign   esc leaves"
        keys = Span(told, "warn") if told else Span(said, "dim")
        more = len(item) - self._top - room
        right: Line = line(Span(f"{more} more lines: PgDn ", "dim")) if more > 0 else ()
        self.bar.show([spread(line(" ", keys), right, width)])

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if self._note is not None:
            self._typed(self._note, event)
            return
        page = max(1, self.body.size.height - 8)
        key = event.character if event.is_printable and event.character else event.key
        if key in ("escape", "q", "ctrl+c", "ctrl+q"):
            self._leave(sign=False)
        elif key in ("pagedown", "space", " ", "pageup"):
            self._top += -page if key == "pageup" else page
            self.show()
        elif key in ("j", "down", "k", "up"):
            self.reviewing.step(1 if key in ("j", "down") else -1)
            self._top = 0
            self.show()
        elif key in ("+", "-", "n", "V"):
            self._judge(key, together(event))
        else:
            self.show(f"{key} means nothing here: + good, - bad, j/k answers, V sign, esc leaves")

    def _judge(self, key: str, count: int) -> None:
        if count > 1:
            self.show(f"{count} keys came at once: not taken as verdicts")
        elif key == "V":
            self._leave(sign=True)
        elif key == "n":
            self._note = TypedLine() if self.reviewing.items else None
            self.show()
        else:
            self._say(key == "+")

    def _say(self, good: bool, note: str = "") -> None:
        self.reviewing.say(good, note)
        self._top = 0
        self.show()

    def _typed(self, note: TypedLine, event: events.Key) -> None:
        """A key while what is wrong is being typed: enter finds the answer bad with it, esc drops it."""
        if event.key in ("enter", "escape", "ctrl+c"):
            self._note = None
            if event.key == "enter":
                self._say(False, note.text.strip())
        elif not note.key(event.key) and event.is_printable and event.character:
            note.insert(event.character)
        self.show()

    def _leave(self, *, sign: bool) -> None:
        if not self._left:  # keys may come faster than the screen goes
            self._left = True
            self.dismiss(sign)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        if self._note is not None:
            self._note.insert(event.text)
            self.show()
        else:
            self.show("pasted text ignored")
