"""The console: follows the hub, draws its state, and sends the moves that the gate lets through."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from textual.app import App
from textual.driver import Driver

from loradeck.client.config import Context, config_path, load_contexts, load_keys
from loradeck.client.feed import FeedLink, LinkChange
from loradeck.client.state_list import Listed
from loradeck.client.terminal_text import clean
from loradeck.schemas.feed import FeedMessage
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import HubState
from loradeck.tui.actions.key_actions import KeyActions
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.typed_text import TypedText
from loradeck.tui.hub.connection import HubConnection
from loradeck.tui.hub.move_sender import MoveSender
from loradeck.tui.hub.queries import Queries
from loradeck.tui.key_checks.seen_frames import SeenFrames
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.model import session as sessions
from loradeck.tui.model.lists import RowFilter, Sort
from loradeck.tui.model.packed_rows import freeze_large_list
from loradeck.tui.model.session import SentMove, Session
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.screens.lists import LISTS
from loradeck.tui.terminal.console_log import keep_log, report_end
from loradeck.tui.terminal.driver import CURSOR_REQUEST, DeckDriver, TerminalAnswered, TerminalGone
from loradeck.tui.text.spans import age
from loradeck.tui.text.theme import THEME

log = logging.getLogger("loradeck.console")

TAKEN_S = 0.02
"""Seconds between two looks at a slow terminal: a frame is drawn once it has accepted the one before."""

WORST = 100
"""Rows on top of the list whose figures are asked for also where they are out of view: they decide its order."""

REPAINT_S = 0.5
"""Seconds between two frames of new data. Keys, and the progress of one's own moves, are drawn at once."""


class Deck(App[Context], inherit_bindings=False):
    """The console's window on one hub."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { background: ansi_default; }"

    def __init__(
        self,
        hub: HubConnection,
        state: ConsoleState,
        *,
        at: str | None = None,
        session: Session | None = None,
        contexts: Callable[[], Mapping[str, Context]] = dict,
        driver_class: type[Driver] | None = None,
    ) -> None:
        """Connect the parts of one console; nothing is sent before its first frame.

        Args:
            state: empty but for what is known without a hub: its name here, the person's keys, whether it is read-only.
            contexts: reads the hubs that `:ctx` may go to, by name; may raise ConfigError. The app ends with the one
                that was chosen.
            session: the last one on this hub; continued if it was cut off lately and `at` is not given.
            at: 'tenant' or 'tenant/route' to start on; with '@MS' (milliseconds since 1970 UTC) on its events
                of that time.
        """
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.set_reactive(App.theme, THEME)
        self._hub = hub
        self._at = at
        self._session = session or Session()
        self._owes_frame = False
        self._painted = asyncio.Event()
        self.state = state
        self.sender = MoveSender(hub, state, self.draw_front)
        self.queries = Queries(hub, state, self._aside, self.draw_front, self.notice)
        self.seen = SeenFrames(clock=state.clock, request=self._request, written=self._written, accepted=self._accepted)
        self.moves = Moves(self, state, self.seen, self.sender, self.queries)
        self.typed = TypedText(self, state, self.moves, lambda action: self.key_actions.do(action), contexts)
        self.typed.commands.lines = list(self._session.commands)
        self.typed.filters.lines = list(self._session.filters)
        self.key_actions = KeyActions(self, state, self.moves, self.typed)
        shared = (self, state, self.moves, self.key_actions, self.queries)
        self.lists: dict[Screen, ListScreen[Any]] = {kind.WHICH: kind(*shared) for kind in LISTS}

    def session(self, now_ms: int, *, cut: bool) -> Session:
        """The session that the next console on this hub continues. Marks and open questions are not kept."""
        return Session(
            at_ms=now_ms,
            cut=cut,
            screen=self.state.screen,
            sort=self.state.sort,
            filter=self.state.tenant_list.filter.text,
            row=self.state.tenant_list.selected,
            sent=tuple(map(SentMove.of, self.sender.reported)),
            commands=tuple(self.typed.commands.lines),
            filters=tuple(self.typed.filters.lines),
        )

    # ---- life ------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Install the lists, follow the hub, and end cleanly on a signal."""
        for which, screen in self.lists.items():
            self.install_screen(screen, which.value)
        self.push_screen(Screen.TENANTS.value)
        self.set_interval(REPAINT_S, self._tick)
        self.run_worker(self._follow(), name="feed")
        if isinstance(self._driver, DeckDriver):
            self._driver.expecting = lambda: self.seen.waiting
            loop = asyncio.get_running_loop()
            for number in (signal.SIGHUP, signal.SIGTERM):
                loop.add_signal_handler(number, self._end, number)

    def _end(self, number: signal.Signals) -> None:
        """End on a signal and leave the terminal clean. Moves that were sent go on at the hub."""
        log.warning("ended by %s", number.name)
        self.exit(return_code=128 + number)

    def _handle_exception(self, error: Exception) -> None:
        log.error("ended by a fault of its own", exc_info=error)
        super()._handle_exception(error)

    def on_terminal_gone(self, event: TerminalGone) -> None:
        """End when the terminal has hung up."""
        self._end(signal.SIGHUP)

    async def on_unmount(self) -> None:
        """Close the connections to the hub."""
        await self._hub.aclose()

    @property
    def front(self) -> ListScreen[Any] | None:
        """The list in front; None while help covers it."""
        screen = self.screen_stack[-1] if self._screen_stacks.get(self._current_mode) else None
        return screen if isinstance(screen, ListScreen) else None

    # ---- what is seen ----------------------------------------------------------------------------------------

    def _request(self) -> None:
        if isinstance(self._driver, DeckDriver):
            self._driver.write(CURSOR_REQUEST)
        else:
            self.seen.answered()  # without a terminal (tests, screenshots) what is drawn is seen

    def _written(self) -> int:
        return self._driver.written if isinstance(self._driver, DeckDriver) else 0

    def _accepted(self) -> int:
        return self._driver.accepted if isinstance(self._driver, DeckDriver) else 0

    @property
    def keeps_up(self) -> bool:
        """Whether the terminal has accepted all output so far. Periodic redraws wait until it has."""
        return self._written() == self._accepted()

    def post_display_hook(self) -> None:
        """Textual calls this after each frame it has handed to the driver."""
        if self._batch_count or not self.is_running:
            return
        self._painted.set()
        front = self.front
        before = self.seen.look()
        self.seen.frame(*(front.pane.painted if front is not None else (None, None)))
        after = self.seen.look()
        if after.seen_at is not None and (before.shown, before.question) != (after.shown, after.question):
            self._seen()

    def on_terminal_answered(self, event: TerminalAnswered) -> None:
        """Note that the terminal has drawn a frame."""
        self.seen.answered()
        if self.seen.look().seen_at is not None:
            self._seen()

    def _seen(self) -> None:
        """Draw again when R becomes armed."""
        self.set_timer(REPAINT_S + 0.02, self.draw_front)

    # ---- drawing ---------------------------------------------------------------------------------------------

    def draw_front(self) -> None:
        """Draw the list in front, as soon as the terminal has accepted the last frame."""
        front = self.front
        if front is None or self._owes_frame:
            return
        if not self.keeps_up:
            self._owes_frame = True
            self.set_timer(TAKEN_S, self._draw_owed)
            return
        front.sync()

    def _draw_owed(self) -> None:
        self._owes_frame = False
        self.draw_front()

    def _tick(self) -> None:
        """Twice a second: order, ages, figures."""
        self.state.arrange()
        self.moves.drop_outdated()
        self.sender.refresh_tell()
        self._ask()
        self.draw_front()

    def notice(self, text: str, style: str = "") -> None:
        """Shows a line above the footer, until the next key."""
        front = self.front
        if front is not None:
            front.prompt.show_notice(text, style)

    # ---- the feed --------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        await self._painted.wait()  # what speaks to a hub is imported behind the first frame
        async with contextlib.aclosing(self._hub.follow()) as items:
            async for item in items:
                if isinstance(item, Listed | HubState):
                    await self._load(item)
                else:
                    self._take(item)
                del item

    async def _load(self, listed: Listed | HubState) -> None:
        """Load a full list. Keys come through meanwhile."""
        for _ in self.state.loading(listed):
            await asyncio.sleep(0)
        self.set_timer(1.0, freeze_large_list)  # the text it came in is let go by then
        self._go_on()
        self._start_row()
        self.sender.find_committed()
        self.sender.refresh_tell()
        self.draw_front()

    def _take(self, item: LinkChange | FeedMessage) -> None:
        """Apply one item of the feed. Rows of one's own moves are drawn at once."""
        match item:
            case LinkChange():
                if item.state is FeedLink.UP:
                    self.state.link_up()
                    self.notice("")  # what a key was told about the link is over
                elif item.state is not FeedLink.CONNECTING:
                    self.state.link_down("; ".join(part for part in (item.why, item.fix) if part))
                self.draw_front()
            case _:
                changed = self.state.apply(item)
                if changed.events:
                    self.sender.find_committed()
                if changed.tenants & self.sender.watched:
                    self.sender.refresh_tell()
                    self.draw_front()

    def _go_on(self) -> None:
        """Continue the session of a console that was cut off lately; once, with the first list."""
        session, self._session = self._session, Session()
        now_ms = int(time.time() * 1000)
        if self._at is not None or not session.goes_on(now_ms):
            return
        sessions.restore(session, self.state)
        self.show_list(session.screen)
        self.sender.adopt(session.moves(self.state.clock(), now_ms))
        self.run_worker(self.sender.look_up(), group="moves")
        ago = age((now_ms - session.at_ms) / 1000)
        close = self.state.keys.shown(Action.CLOSE)
        hidden = f"; filter {session.filter}, {close} clears it" if session.filter else ""
        self.notice(clean(f"as it was when the last console was cut off {ago} ago{hidden}"))

    def _start_row(self) -> None:
        """Start on the row that was asked for."""
        if self._at is None:
            return
        place, _, moment = self._at.partition("@")
        tenant, _, route = place.partition("/")
        key = (tenant, route or "production")
        self._at = None
        if not self.state.tenant_list.choose(key):
            self.notice(f"no row {clean('/'.join(key))} here", "warn")
        elif moment:
            self.show_events("/".join(key))
            events = self.state.listed_events
            before = [
                rev
                for rev in self.state.event_list.order
                if events[rev].at_ms <= int(moment) and (events[rev].tenant, events[rev].route) == key
            ]
            if before:
                self.state.event_list.choose(before[0])

    # ---- what is asked for -----------------------------------------------------------------------------------

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        self.run_worker(work, group="asked")

    def _ask(self) -> None:
        """Figures where somebody looks, records of the screen in front, and names of releases that nobody described."""
        on_events = self.front is not None and self.state.screen is Screen.EVENTS
        self._show()
        self.queries.records()
        self.queries.selected()
        self.queries.labels(self.front.grid.in_view if on_events and self.front is not None else [])

    def _show(self) -> None:
        self.queries.show(self._looked_at(), self._nodes_looked_at())

    def _nodes_looked_at(self) -> set[str]:
        """Nodes in view and a page around them."""
        if self.state.screen is not Screen.NODES:
            return set()
        nodes = self.state.node_list
        return {*nodes.order[self.lists[Screen.NODES].grid.near], *([nodes.selected] if nodes.selected else [])}

    def _looked_at(self) -> set[PointerKey]:
        """Rows in view and a page around them, marked rows, and those of own moves."""
        state = self.state
        rows = {*state.marks, *self.sender.watched}
        if state.row is not None:
            rows.add(state.row.key)
        if state.sort is Sort.ATTENTION and state.tenant_list.filter.pattern is None:
            rows.update(state.tenant_list.order[: min(state.tenants.counts.need, WORST)])  # their figures order them
        if state.screen is Screen.TENANTS:
            rows.update(state.tenant_list.order[self.lists[Screen.TENANTS].grid.near])
        return rows

    # ---- keys ------------------------------------------------------------------------------------------------

    def after_key(self) -> None:
        """Draw the effect of a key, and then ask for the figures of rows that came into view."""
        self.draw_front()
        self.call_after_refresh(self._show)  # the frame goes first

    def show_list(self, which: Screen) -> None:
        """Bring a list to the front."""
        self.moves.question = None
        if which is self.state.screen:
            return
        self.state.screen = which
        self.state.arrange(force=True)
        self.switch_screen(which.value)
        self.queries.records()

    def show_events(self, word: str) -> None:
        """The events screen, filtered by a literal word."""
        import re

        # Between spaces: acme/production is not in bigacme/production.
        pattern = rf"(?<!\S){re.escape(word.strip())}(?!\S)" if "/" in word else re.escape(word.strip())
        self.state.event_list.filter = RowFilter.parse(pattern) if word.strip() else RowFilter()
        self.state.event_list.selected = None
        self.state.older = {}
        self.show_list(Screen.EVENTS)
        tenant, _, route = word.strip().partition("/")
        if route:
            self.run_worker(self.queries.history((tenant, route)), group="history", exclusive=True)


def run(context: Context, *, read_only: bool = False, at: str | None = None) -> int:
    """Run the console on a hub until it is left. Returns the exit status: 0, or 128 + the signal that ended it.

    Args:
        read_only: started with --read-only; the context may say so as well.
        at: 'tenant' or 'tenant/route' to start on; with '@MS' on its events of that time.

    Raises: ConfigError: unsafe token file, unusable certificate authority, a key table that is not understood.
    """
    kept = keep_log()
    keys = Keys.remapped(load_keys(), where=f"{config_path()}: [keys]")
    while True:
        why = "--read-only" if read_only else f"context {context.name}" if context.read_only else None
        path = sessions.path_of(context)
        deck = Deck(
            HubConnection(context),
            ConsoleState(keys=keys, context=context.name, production=context.production, read_only=why),
            at=at,
            session=sessions.read(path),
            contexts=lambda: load_contexts()[0],
            driver_class=DeckDriver,
        )
        chosen = deck.run(mouse=False)
        status = deck.return_code or 0
        sessions.write(path, deck.session(int(time.time() * 1000), cut=bool(status)))
        if chosen is None:
            if status:
                report_end(status, kept)
            return status
        context, at = chosen, None
