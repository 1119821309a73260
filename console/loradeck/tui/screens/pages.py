"""The pages of one job, with its log below its plots, and of a candidate's sampled answers, judged one at a time."""

from textual import events

from loradeck.client.terminal_text import clean
from loradeck.tui.hub.queries import Queries
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.jobs import job_head
from loradeck.tui.lines.review_sheet import item_lines, review_head
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.terminal.driver import together
from loradeck.tui.text.line_editor import TypedLine
from loradeck.tui.text.spans import BLANK, Line, Span, line, spread
from loradeck.tui.widgets.page import Overlay, scrolled

POLL_S = 1.0


class JobScreen(Overlay[None], inherit_bindings=False):
    """The page of one job, for as long as a person looks at it."""

    BLOCKS = ("head", "log")
    DEFAULT_CSS = """
    JobScreen #head { height: 12; }
    JobScreen #log { height: 1fr; }
    """

    def __init__(self, following: FollowedJob, state: ConsoleState, queries: Queries) -> None:
        super().__init__("job")
        self._state = state
        self._queries = queries
        self.following = following

    def on_mount(self) -> None:
        """Ask for the job now and from then on."""
        self.set_interval(POLL_S, self.poll)
        self.poll()

    def poll(self) -> None:
        """Ask for new events and lines, unless an answer is still on its way."""
        if not self.following.fetch.running:
            self.run_worker(self._poll())
        if self.keeps_up:
            self.show()

    async def _poll(self) -> None:
        await self._queries.poll_job(self.following)
        if self.keeps_up:
            self.show()

    def show(self, hint: str = "") -> None:
        """Draw the job; lines that look the same are not written again. `hint`: shown beside the keys."""
        head, log = self.blocks
        width, height = self.size.width, log.size.height
        if not self.is_mounted or not width or not height:
            return
        state, following = self._state, self.following
        head.show(job_head(state, state.jobs.get(following.job), following, width))
        log.show(self._log(height))
        keys = " j/k PgDn/PgUp scroll   G follows the end   esc leaves"
        self.show_bar(keys, hint, f"{len(following.log):,} lines held ")

    def _log(self, height: int) -> list[Line]:
        lines = [line(f" {clean(text)}") for text in self.following.log.window(height)]
        if lines:
            return lines
        none = "loading ..." if self.following.fetch.at is None else "it printed nothing since the hub started"
        return [line(Span(f" {none}", "dim"))]

    def take(self, key: str, event: events.Key) -> None:
        """Scroll, or follow the end."""
        log, height = self.following.log, max(1, self.body.size.height)
        by = scrolled(key, height, len(log))
        if key in ("G", "end"):
            log.follow()
        elif by is not None:
            log.move(by, height)
        self.show("" if by is not None else f"no key here: {key}")


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
