"""A candidate's sampled answers, one at a time: each is found good or bad, and why, and V goes on to sign."""

from textual import events

from loradeck.tui.hub.queries import Queries
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.review_sheet import item_lines, review_head
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.terminal.driver import together
from loradeck.tui.text.line_editor import TypedLine
from loradeck.tui.text.spans import BLANK, Line, Span, line, spread
from loradeck.tui.widgets.page import Overlay


class ReviewScreen(Overlay[bool], inherit_bindings=False):
    """Ends with whether the review is to be signed."""

    def __init__(self, reviewing: Reviewing, state: ConsoleState, queries: Queries) -> None:
        super().__init__("review")
        self._state = state
        self._queries = queries
        self.reviewing = reviewing
        self._top = 0
        self._note: TypedLine | None = None  # while what is wrong is being typed

    def on_mount(self) -> None:
        """Fetch the sheet."""
        self.run_worker(self._fetch())
        self.show()

    async def _fetch(self) -> None:
        await self._queries.sheet(self.reviewing)
        self.show()

    def show(self, hint: str = "") -> None:
        """Draw the answer. `hint`: shown instead of the keys."""
        width, height = self.body.size
        if not self.is_mounted or not width or not height:
            return
        head = [*review_head(self._state, self.reviewing, width), BLANK]
        item = item_lines(self.reviewing, width)
        room = max(1, height - len(head))
        self._top = max(0, min(self._top, len(item) - room))
        self.body.show([*head, *item[self._top : self._top + room]])
        if self._note is not None:
            lead = " what is wrong> "
            self.bar.show([(Span(lead, "question"), *self._note.spans(width - len(lead) - 1))])
            return
        sign = self._state.keys.shown(Action.SIGN)
        key_hints = f"+ good   - bad   n bad, and why   j/k answers   {sign} sign   esc leaves"
        keys = Span(hint, "warn") if hint else Span(key_hints, "dim")
        more = len(item) - self._top - room
        right: Line = line(Span(f"{more} more lines: PgDn ", "dim")) if more > 0 else ()
        self.bar.show([spread(line(" ", keys), right, width)])

    def on_key(self, event: events.Key) -> None:
        """Type into an open note; else judge, go through the answers, or leave."""
        if self._note is None:
            super().on_key(event)
            return
        event.stop()
        event.prevent_default()
        self._typed(self._note, event)

    def take(self, key: str, event: events.Key) -> None:
        """Judge, or go through the answers."""
        page = max(1, self.body.size.height - 8)
        if key in ("pagedown", "space", "pageup"):
            self._top += -page if key == "pageup" else page
            self.show()
        elif key in ("j", "down", "k", "up"):
            self.reviewing.step(1 if key in ("j", "down") else -1)
            self._top = 0
            self.show()
        elif key in ("+", "-", "n") or key in self._state.keys.of(Action.SIGN):
            self._judge(key, together(event))
        else:
            sign = self._state.keys.shown(Action.SIGN)
            self.show(f"{key} means nothing here: + good, - bad, j/k answers, {sign} sign, esc leaves")

    def _judge(self, key: str, count: int) -> None:
        if count > 1:
            self.show(f"{count} keys came at once: not taken as verdicts")
        elif key == "n":
            self._note = TypedLine() if self.reviewing.items else None
            self.show()
        elif key in ("+", "-"):
            self._say(key == "+")
        else:
            self.leave(True)

    def _say(self, good: bool, note: str = "") -> None:
        self.reviewing.judge(good, note)
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

    def on_paste(self, event: events.Paste) -> None:
        """Insert pasted text into an open note; elsewhere it is ignored."""
        event.stop()
        if self._note is not None:
            self._note.insert(event.text)
            self.show()
        else:
            self.show("pasted text ignored")
