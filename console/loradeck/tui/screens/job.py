"""One job: plots above, its log below, which follows its end until one moves up."""

from __future__ import annotations

from typing import cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from loradeck.client.terminal_text import clean
from loradeck.tui.hub.queries import Queries
from loradeck.tui.lines.jobs import job_head
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, line, spread
from loradeck.tui.widgets.lines import Lines
from loradeck.tui.widgets.page import Paced, pressed

POLL_S = 1.0


class JobScreen(Screen[None], inherit_bindings=False):
    """The page of one job, for as long as a person looks at it."""

    DEFAULT_CSS = """
    JobScreen { layout: vertical; background: ansi_default; color: ansi_default; overflow: hidden; }
    JobScreen #head { height: 12; }
    JobScreen #log { height: 1fr; }
    """

    def __init__(self, following: FollowedJob, state: ConsoleState, queries: Queries) -> None:
        super().__init__(name="job")
        self._state = state
        self._queries = queries
        self.following = following
        self.head = Lines(id="head")
        self.log_lines = Lines(id="log")
        self.bar = Lines(id="bar")
        self._left = False

    def compose(self) -> ComposeResult:
        """Puts the head above the log and the bar of keys."""
        yield self.head
        yield self.log_lines
        yield self.bar

    @property
    def _keeps_up(self) -> bool:
        return cast(Paced, self.app).keeps_up

    def on_mount(self) -> None:
        """Ask for the job now and from then on."""
        self.set_interval(POLL_S, self.poll)
        self.poll()

    def on_resize(self) -> None:
        """Draw it in the new size."""
        self.call_after_refresh(self.show)

    def poll(self) -> None:
        """Ask for new events and lines, unless an answer is still on its way."""
        if not self.following.fetch.running:
            self.run_worker(self._poll())
        if self._keeps_up:
            self.show()

    async def _poll(self) -> None:
        await self._queries.poll_job(self.following)
        if self._keeps_up:  # a terminal that has not taken the last frame gets no new one
            self.show()

    def show(self, hint: str = "") -> None:
        """Draw the job; lines that look the same are not written again. `hint`: shown beside the keys."""
        width, height = self.size.width, self.log_lines.size.height
        if not self.is_mounted or not width or not height:
            return
        state, following = self._state, self.following
        self.head.show(job_head(state, state.jobs.get(following.job), following, width))
        self.log_lines.show(self._log(height))
        keys = " j/k PgDn/PgUp scroll   G follows the end   esc leaves"
        left = [Span(keys, "dim"), Span(f"   {hint}" if hint else "", "warn")]
        self.bar.show([spread(left, line(Span(f"{len(following.log):,} lines held ", "dim")), width)])

    def _log(self, height: int) -> list[Line]:
        lines = [line(f" {clean(text)}") for text in self.following.log.window(height)]
        if lines:
            return lines
        none = "loading ..." if self.following.fetch.at is None else "it printed nothing since the hub started"
        return [line(Span(f" {none}", "dim"))]

    def on_key(self, event: events.Key) -> None:
        """Scroll, follow the end, or leave."""
        event.stop()
        event.prevent_default()
        log, height = self.following.log, max(1, self.log_lines.size.height)
        steps = {
            "j": 1, "down": 1, "k": -1, "up": -1, "pagedown": height - 1, "space": height - 1,
            "pageup": 1 - height, "g": -len(log), "home": -len(log),
        }  # fmt: skip
        if event.key in ("escape", "q", "ctrl+c", "ctrl+q"):
            if not self._left:  # keys may come faster than the screen goes
                self._left = True
                self.dismiss()
            return
        if event.key in ("G", "end"):
            log.follow()
        elif event.key in steps:
            log.move(steps[event.key], height)
        else:
            self.show(f"no key here: {pressed(event)}")
            return
        self.show()

    def on_paste(self, event: events.Paste) -> None:
        """Ignore pasted text."""
        event.stop()
