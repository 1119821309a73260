"""One job: plots above, its log below, which follows its end until one moves up."""

from textual import events

from loradeck.client.terminal_text import clean
from loradeck.tui.hub.queries import Queries
from loradeck.tui.lines.jobs import job_head
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, line
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
