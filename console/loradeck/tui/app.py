"""The console: follows the hub, draws what it says, and sends what the dispatch gate lets through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from textual import events
from textual.app import App
from textual.driver import Driver

from loradeck.client.config import Context, load_contexts
from loradeck.client.errors import ClientError
from loradeck.client.feed import FeedItem, LinkChange
from loradeck.client.feed import Link as FeedLink
from loradeck.client.moments import MomentError, moment
from loradeck.schemas.log import Event
from loradeck.schemas.moves import RewindRequest
from loradeck.schemas.state import HubState
from loradeck.tui import keys
from loradeck.tui.asker import Asker
from loradeck.tui.clipboard import TooLong, copied
from loradeck.tui.commands import CommandError, parse
from loradeck.tui.dispatch import (
    Act,
    Action,
    Ask,
    NewKey,
    Refuse,
    Verdict,
    annotate,
    barrier,
    decide,
    new_key,
    offer,
    rewind,
)
from loradeck.tui.driver import CURSOR_REQUEST, DeckDriver, TerminalAnswered, TerminalGone, together
from loradeck.tui.listing import FilterError, RowFilter
from loradeck.tui.moves import Move, RowKey
from loradeck.tui.outcome import said
from loradeck.tui.panel import is_done, pin_command, wants_panel
from loradeck.tui.port import HubPort, Port
from loradeck.tui.question import Question
from loradeck.tui.saving import default_name, save
from loradeck.tui.screens.adapters import AdaptersScreen
from loradeck.tui.screens.data import DataScreen
from loradeck.tui.screens.events import EventsScreen
from loradeck.tui.screens.gates import GatesScreen
from loradeck.tui.screens.help import HelpScreen
from loradeck.tui.screens.jobs import JobsScreen
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.screens.nodes import NodesScreen
from loradeck.tui.screens.page import Page
from loradeck.tui.screens.tenants import TenantsScreen
from loradeck.tui.seen import Sight
from loradeck.tui.sender import Sender
from loradeck.tui.state import ConsoleState, Screen
from loradeck.tui.text import clean, line, plural
from loradeck.tui.theme import THEME
from loradeck.tui.widgets.prompt import Asking

REPAINT_S = 0.5
"""Data is drawn at most twice a second; keys, and what one's own move does, at once."""

HARMLESS = frozenset({"up", "down", "page_up", "page_down", "escape"})
"""What keys may do that came several in one read: repeated over a slow link they move the selection."""

LISTS: dict[Screen, type[ListScreen]] = {
    Screen.TENANTS: TenantsScreen,
    Screen.NODES: NodesScreen,
    Screen.JOBS: JobsScreen,
    Screen.GATES: GatesScreen,
    Screen.ADAPTERS: AdaptersScreen,
    Screen.EVENTS: EventsScreen,
    Screen.DATA: DataScreen,
}


class Deck(App[Context], inherit_bindings=False):
    """The console's window on one hub."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { background: ansi_default; }"

    def __init__(
        self,
        port: Port,
        *,
        context: str,
        production: bool = False,
        read_only: str | None = None,
        at: str | None = None,
        contexts: Callable[[], Mapping[str, Context]] = dict,
        clock: Callable[[], float] = time.monotonic,
        make_key: NewKey = new_key,
        driver_class: type[Driver] | None = None,
    ) -> None:
        """
        Args:
            port: the hub.
            context: what this hub is called here, shown until it has said its own name.
            read_only: why nothing may be changed from here; None: it may.
            contexts: reads the hubs that `:ctx` may go to, by name; may raise ConfigError. The app ends with the one
                that was chosen.
            at: 'tenant' or 'tenant/route' to start on; with '@MS' (milliseconds since 1970 UTC) on its events
                of that time.
        """
        super().__init__(driver_class=driver_class, ansi_color=True)
        self.set_reactive(App.theme, THEME)
        self.port = port
        self.context = context
        self.production = production
        self.read_only = read_only
        self.state = ConsoleState(clock=clock)
        self.question: Question | None = None
        self.question_top = 0  # first entry of its list that is in view
        self._at = at
        self._annotating: Event | None = None
        self._contexts = contexts
        self._make_key = make_key
        self.sender = Sender(port, self.state, self._draw_front)
        self.asker = Asker(port, self.state, start=self._aside, changed=self._draw_front, notice=self.notice)
        self._last_filter = RowFilter()
        self.sight = Sight(clock=clock, request=self._request, written=self._written, accepted=self._accepted)
        self.lists = {which: kind() for which, kind in LISTS.items()}

    # ---- life ------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        for which, screen in self.lists.items():
            self.install_screen(screen, which.value)
        self.push_screen(Screen.TENANTS.value)
        self.set_interval(REPAINT_S, self._tick)
        self.run_worker(self._follow(), name="feed")
        if isinstance(self._driver, DeckDriver):
            self._driver.expecting = lambda: self.sight.waiting
            loop = asyncio.get_running_loop()
            for number in (signal.SIGHUP, signal.SIGTERM):
                loop.add_signal_handler(number, self._end, number)

    def _end(self, number: signal.Signals) -> None:
        """A signal: leave the terminal clean. What was sent goes on at the hub."""
        self.exit(return_code=128 + number)

    def on_terminal_gone(self, event: TerminalGone) -> None:
        self._end(signal.SIGHUP)

    async def on_unmount(self) -> None:
        await self.port.aclose()

    @property
    def front(self) -> ListScreen | None:
        """The list in front; None while help covers it."""
        screen = self.screen_stack[-1] if self._screen_stacks.get(self._current_mode) else None
        return screen if isinstance(screen, ListScreen) else None

    # ---- what is seen ----------------------------------------------------------------------------------------

    def _request(self) -> None:
        if isinstance(self._driver, DeckDriver):
            self._driver.write(CURSOR_REQUEST)
        else:
            self.sight.answered()  # without a terminal (tests, screenshots) what is drawn is seen

    def _written(self) -> int:
        return self._driver.written if isinstance(self._driver, DeckDriver) else 0

    def _accepted(self) -> int:
        return self._driver.accepted if isinstance(self._driver, DeckDriver) else 0

    def post_display_hook(self) -> None:
        """Textual calls this after each frame it has handed to the driver."""
        if self._batch_count or not self.is_running:
            return
        front = self.front
        before = self.sight.look()
        self.sight.frame(*(front.pane.painted if front is not None else (None, None)))
        after = self.sight.look()
        if after.seen_at is not None and (before.shown, before.question) != (after.shown, after.question):
            self._seen()

    def on_terminal_answered(self, event: TerminalAnswered) -> None:
        self.sight.answered()
        if self.sight.look().seen_at is not None:
            self._seen()

    def _seen(self) -> None:
        """Draw again when R becomes armed."""
        self.set_timer(REPAINT_S + 0.02, self._draw_front)

    # ---- drawing ---------------------------------------------------------------------------------------------

    def _draw_front(self) -> None:
        front = self.front
        if front is not None:
            front.sync()

    def _tick(self) -> None:
        """Twice a second: order, ages, figures. A terminal that has not taken the last frame gets no new one."""
        self.state.arrange()
        self._drop_outdated()
        self._ask()
        if self._written() == self._accepted():
            self._draw_front()

    def notice(self, text: str, style: str = "") -> None:
        """One line above the footer, until the next key."""
        front = self.front
        if front is not None:
            front.prompt.say(text, style)

    # ---- the feed --------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async with contextlib.aclosing(self.port.follow()) as items:
            async for item in items:
                self._take(item)

    def _take(self, item: FeedItem) -> None:
        """One item of the feed. What concerns one's own moves is drawn at once."""
        match item:
            case LinkChange():
                if item.state is FeedLink.UP:
                    self.state.link_up()
                    self.notice("")  # what a key was told about the link is over
                elif item.state is not FeedLink.CONNECTING:
                    self.state.link_down("; ".join(part for part in (item.why, item.fix) if part))
                self._draw_front()
            case HubState():
                self.state.load(item)
                self._start_row()
                self.sender.retell()
                self._draw_front()
            case _:
                changed = self.state.apply(item)
                if changed.tenants & self.sender.watched:
                    self.sender.retell()
                    self._draw_front()

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
            events = self.state.events
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
        self.asker.show(self._looked_at())
        self.asker.records()
        self.asker.labels(self.front.grid.in_view if on_events and self.front is not None else [])

    def _looked_at(self) -> set[RowKey]:
        """Rows in view and a page around them, marked rows, and those of own moves."""
        state = self.state
        rows = {*state.marks, *self.sender.watched}
        if state.row is not None:
            rows.add(state.row.key)
        if state.screen is Screen.TENANTS:
            rows.update(state.tenant_list.order[self.lists[Screen.TENANTS].grid.near])
        return rows

    # ---- keys ------------------------------------------------------------------------------------------------

    def pressed(self, event: events.Key) -> None:
        """A key outside inputs."""
        self.state.touched()
        typed = event.character if event.is_printable and event.character else event.key
        if typed == " ":
            typed = "space"
        count = together(event)
        binding = keys.lookup(typed, self.state.screen)
        if count > 1 and not (binding is not None and binding.does in HARMLESS):
            self.notice(f"{count} keys came at once: not taken as commands", "warn")
            return
        if binding is None:
            other = keys.elsewhere(typed, self.state.screen)
            if other is not None:
                self.notice(f"{other.shown} ({other.label or other.does}) means nothing on this screen", "dim")
            return
        self.notice("")
        if self.question is not None and not self._answers(binding):
            return
        getattr(self, f"do_{binding.does}")()
        self._draw_front()
        self.asker.show(self._looked_at())

    def _answers(self, binding: keys.Binding) -> bool:
        """Whether a key goes on although a question is open. Anything but y and esc drops the question."""
        assert self.question is not None
        if binding.does in ("confirm", "escape"):
            return True
        if self.question.ask.listed and self._scrolls_list(binding):
            return False
        if binding.does == "enter" or self.question.action.value in binding.keys:
            self.notice(f"{binding.shown} does nothing here: y does it, esc leaves")
            return False
        self.question = None
        return True

    def _scrolls_list(self, binding: keys.Binding) -> bool:
        """Whether a key moves the question's list. Drawing stops it at the end."""
        page = max(1, (self.front.pane.size.height if self.front else 9) - 4)
        steps = {"down": 1, "up": -1, "page_down": page, "page_up": -page, "first": -100_000, "last": 100_000}
        if binding.does not in steps:
            return False
        self.question_top = max(0, self.question_top + steps[binding.does])
        self._draw_front()
        return True

    def do_rollback(self) -> None:
        self._gate(Action.ROLLBACK)

    def do_undo(self) -> None:
        self._gate(Action.UNDO)

    def do_fallback(self) -> None:
        self._gate(Action.FALLBACK)

    def do_hold(self) -> None:
        self._gate(Action.HOLD)

    def do_promote(self) -> None:
        self.promote(None, override=False)

    def do_rewind(self) -> None:
        barred = barrier(Action.REWIND, self.state, self.read_only)
        if barred is not None:
            self.notice(barred.why, "warn")
        elif self.front is not None:
            self.notice("14:05 (local), 14:05Z, 20m ago, or a rev", "dim")
            self.front.prompt.open(Asking.MOMENT)

    def do_quit(self) -> None:
        if self.state.screen is not Screen.TENANTS:
            self.show_list(Screen.TENANTS)
        else:
            self._gate(Action.QUIT)

    def do_confirm(self) -> None:
        question = self.question
        if question is None:
            self.notice("nothing waits for y", "dim")
            return
        if not self._is_seen(question):
            self.notice("y not taken: your terminal has not shown the question yet", "warn")
            return
        if question.ask.wants_reason:
            self.notice("type the reason, then enter", "warn")
            return
        self.question = None
        if question.action is Action.QUIT:
            self.exit()
        else:
            self._send(question.ask.moves)

    def _is_seen(self, question: Question) -> bool:
        frame = self.sight.look()
        return frame.question == question.number and frame.seen_at is not None

    def do_escape(self) -> None:
        """Out of whatever is innermost."""
        state = self.state
        row = state.row
        if self.question is not None:
            self.question = None
        elif (
            state.screen is Screen.TENANTS and row is not None and self._closes_panel(row.key)
        ) or self.sender.dismiss():
            pass
        elif state.listing.filter.pattern is not None:
            state.set_filter(RowFilter())
        elif state.screen is Screen.TENANTS and state.marks:
            state.marks.clear()
        elif state.screen is not Screen.TENANTS:
            self.show_list(Screen.TENANTS)

    def _closes_panel(self, key: RowKey) -> bool:
        row = self.state.tenants[key]
        if not wants_panel(self.state, row) or row.pointer.last_move is None:
            return False
        if row.pointer.last_move in self.state.dismissed:
            return False
        self.state.dismissed.add(row.pointer.last_move)
        return True

    def do_copy(self) -> None:
        row = self.state.row
        command = pin_command(row, self.state, whole=True) if row is not None and not is_done(row) else None
        wanted = (command if self.state.screen is Screen.TENANTS else None) or self.state.identity
        if wanted is None:
            self.notice("nothing to copy here", "dim")
        elif self._driver is not None:
            self._copy(wanted)

    def _copy(self, text: str) -> None:
        assert self._driver is not None
        try:
            self._driver.write(copied(text, os.environ))
        except TooLong as error:
            self.notice(f"not copied: {error}", "warn")
        else:
            told = clean(text) if len(text) <= 64 else plural(len(text), "character")
            self.notice(f"copied {told} (if your terminal allows OSC 52)")

    def do_mark(self) -> None:
        self.state.toggle_mark()
        self.state.listing.step(1)

    def do_mark_shown(self) -> None:
        self.state.toggle_marks()

    def do_json(self) -> None:
        selected = self.state.selected
        if selected is None:
            self.notice("nothing is selected", "dim")
            return
        text = selected.model_dump_json(indent=2)
        self.push_screen(Page("json", lambda width: [line(clean(part)) for part in text.splitlines()], leaves="J"))

    def do_incident(self) -> None:
        barred = barrier(Action.ANNOTATE, self.state, self.read_only)
        if barred is not None:
            self.notice(barred.why, "warn")
        elif (about := self._about()) is None:
            self.notice("i off: no move of a pointer is selected", "warn")
        elif self.front is not None:
            self._annotating = about  # what is selected while one types is another matter
            self.notice("INC-2210 what happened; - for no incident", "dim")
            self.front.prompt.open(Asking.INCIDENT)

    def _about(self) -> Event | None:
        """The event that `i` is about: the selected one, or the last move of the selected row."""
        if self.state.screen is Screen.EVENTS:
            return self.state.events.get(self.state.event_list.selected or 0)
        row = self.state.row
        return self.state.last_move(row) if row is not None else None

    def save(self, name: str) -> None:
        front = self.front
        if front is None:
            return
        now_ms = self.state.hub_now_ms or int(time.time() * 1000)
        path = Path(name) if name else default_name(front.WHICH.value, now_ms)
        try:
            path = path.expanduser()
            save(path, front.as_text())
        except (OSError, RuntimeError, ValueError) as error:  # the last two: no such user, a zero byte
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.notice(f"not saved: {clean(str(path))}: {clean(why or '')}", "bad")
        else:
            self.notice(f"saved {plural(len(self.state.listing.order), 'row')} to {clean(str(path.resolve()))}")

    def switch(self, name: str) -> None:
        """Another hub: this console ends, and one on that hub begins without marks, filter or anything pending."""
        try:
            contexts = self._contexts()
        except ClientError as error:
            self.notice(f"ctx off: {said(error)}", "bad")
            return
        known = ", ".join(clean(known) for known in sorted(contexts)) or "none"
        if not name:
            self.notice(f"here: {clean(self.context)}; known: {known}")
        elif name not in contexts:
            self.notice(f"no context {clean(name)!r}; known: {known}", "warn")
        elif self.state.unsettled:
            self.notice("ctx off: your last move has not settled", "warn")
        else:
            try:
                HubPort(contexts[name])  # what does not work there keeps this console
            except ClientError as error:
                self.notice(f"ctx off: {said(error)}", "bad")
                return
            self.exit(contexts[name])

    def do_down(self) -> None:
        self.state.listing.step(1)

    def do_up(self) -> None:
        self.state.listing.step(-1)

    def do_page_down(self) -> None:
        self.state.listing.step(self.front.grid.page if self.front else 1)

    def do_page_up(self) -> None:
        self.state.listing.step(-(self.front.grid.page if self.front else 1))

    def do_first(self) -> None:
        self.state.listing.jump(0)

    def do_last(self) -> None:
        self.state.listing.jump(-1)

    def do_enter(self) -> None:
        state = self.state
        if state.screen is Screen.TENANTS and state.row is not None:
            self.show_events(f" {state.row.tenant}/{state.row.route} ")
        elif state.screen is Screen.EVENTS:
            event = state.events.get(state.event_list.selected or 0)
            if event is not None and event.route and state.tenant_list.choose((event.tenant, event.route)):
                self.show_list(Screen.TENANTS)

    def do_tenants(self) -> None:
        self.show_list(Screen.TENANTS)

    def do_nodes(self) -> None:
        self.show_list(Screen.NODES)

    def do_jobs(self) -> None:
        self.show_list(Screen.JOBS)

    def do_gates(self) -> None:
        self.show_list(Screen.GATES)

    def do_adapters(self) -> None:
        self.show_list(Screen.ADAPTERS)

    def do_data(self) -> None:
        self.show_list(Screen.DATA)

    def do_events(self) -> None:
        self.show_list(Screen.EVENTS)

    def do_help(self) -> None:
        self.push_screen(HelpScreen(self.state.screen))

    def do_filter(self) -> None:
        if self.front is not None:
            self._last_filter = self.state.listing.filter
            self.front.prompt.open(Asking.FILTER, self._last_filter.text)

    def do_command(self) -> None:
        if self.front is not None:
            self.front.prompt.open(Asking.COMMAND)

    def show_list(self, which: Screen) -> None:
        """Bring a list to the front."""
        self.question = None
        if which is self.state.screen:
            return
        self.state.screen = which
        self.state.arrange(force=True)
        self.switch_screen(which.value)
        self.asker.records()

    def show_events(self, word: str) -> None:
        """The events screen, filtered by a literal word."""
        import re

        # Between spaces: acme/production is not in bigacme/production.
        pattern = rf"(?<!\S){re.escape(word.strip())}(?!\S)" if "/" in word else re.escape(word.strip())
        self.state.event_list.filter = RowFilter.parse(pattern) if word.strip() else RowFilter()
        self.state.event_list.selected = None
        self.show_list(Screen.EVENTS)

    # ---- typed text ------------------------------------------------------------------------------------------

    def filter_typed(self, text: str) -> None:
        """While a filter is typed the list follows; a half-typed expression leaves it as it is."""
        with contextlib.suppress(FilterError):
            self.state.set_filter(RowFilter.parse(text))
        self._draw_front()

    def prompt_left(self) -> None:
        """Esc in an input."""
        front = self.front
        if front is None:
            return
        if front.prompt.asking is Asking.FILTER:
            self.state.set_filter(self._last_filter)
        self.question = None
        front.prompt.close()
        self._draw_front()

    def submitted(self, asking: Asking, text: str) -> None:
        """Enter in an input."""
        front = self.front
        if front is None:
            return
        if asking is Asking.REASON:
            self._reasoned(text)
        elif asking is Asking.INCIDENT:
            front.prompt.close()
            self._follow_verdict(
                Action.ANNOTATE,
                annotate(self.state, self._annotating, text, read_only=self.read_only, make_key=self._make_key),
            )
        elif asking is Asking.MOMENT:
            if self._rewind_to(text):
                front.prompt.close()
        elif asking is Asking.FILTER:
            front.prompt.close()
            try:
                self.state.set_filter(RowFilter.parse(text))
            except FilterError as error:
                self.state.set_filter(self._last_filter)
                self.notice(clean(str(error)), "bad")
        else:
            front.prompt.close()
            self._run_command(text)
        self._draw_front()

    def _reasoned(self, text: str) -> None:
        """The typed reason of an override: sends the question it belongs to."""
        front, question = self.front, self.question
        if front is None or question is None:
            return
        if not text.strip():
            self.notice("a reason is needed; esc leaves", "warn")
            return
        if not self._is_seen(question):
            self.notice("not sent: your terminal has not shown the question yet", "warn")
            return
        front.prompt.close()
        self.question = None
        self._send([move.because(text.strip()) for move in question.ask.moves])

    def _rewind_to(self, text: str) -> bool:
        """Ask the hub what going back to a time or a rev would do. False: it is neither, and typing goes on."""
        to_rev = int(text) if text.strip().isdecimal() else None
        time_ms = None
        if to_rev is None:
            now_ms = self.state.hub_now_ms or int(time.time() * 1000)
            try:
                time_ms = moment(text, now_ms=now_ms, zoneless=True)
            except MomentError as error:
                self.notice(clean(f"{error}; {error.fix}"), "bad")
                return False
        tenants = tuple(dict.fromkeys(tenant for tenant, _ in self.state.marks))
        request = RewindRequest(
            to_rev=to_rev, time_ms=time_ms, tenants=tenants, idempotency_key=self._make_key(), reason="rewind"
        )
        self.notice("asking the hub what would move ...", "dim")
        self.run_worker(self._plan_rewind(request), group="offer", exclusive=True)
        return True

    async def _plan_rewind(self, request: RewindRequest) -> None:
        plan = await self.asker.plan(request)
        if plan is None:
            return
        if not self._may_ask():
            self.notice("W dropped: you have moved on", "dim")
            return
        self.notice("")
        self._follow_verdict(Action.REWIND, rewind(self.state, plan, request, read_only=self.read_only))

    def _run_command(self, text: str) -> None:
        try:
            command, argument = parse(text)
        except CommandError as error:
            self.notice(clean(str(error)), "bad")
            return
        match command:
            case "":
                return
            case "q":
                self._gate(Action.QUIT)
            case "promote" | "promote!":
                self.show_list(Screen.TENANTS)
                self.promote(argument or None, override=command.endswith("!"))
            case "rollback" | "undo" | "fallback" | "hold":
                self.show_list(Screen.TENANTS)
                self._gate({"rollback": Action.ROLLBACK, "undo": Action.UNDO, "fallback": Action.FALLBACK}.get(
                    command, Action.HOLD))  # fmt: skip
            case "events":
                self.show_events(argument)
            case "save":
                self.save(argument)
            case "ctx":
                self.switch(argument)
            case "rewind":
                self.show_list(Screen.TENANTS)
                barred = barrier(Action.REWIND, self.state, self.read_only)
                if barred is not None:
                    self.notice(barred.why, "warn")
                elif not argument or not self._rewind_to(argument):
                    self.do_rewind()
            case _:
                getattr(self, f"do_{command}")()

    # ---- the gate --------------------------------------------------------------------------------------------

    def _gate(self, action: Action) -> None:
        verdict = decide(action, self.state, self.sight.look(), read_only=self.read_only, make_key=self._make_key)
        self._follow_verdict(action, verdict)

    def _follow_verdict(self, action: Action, verdict: Verdict) -> None:
        match verdict:
            case Refuse():
                self.notice(verdict.why, "warn")
            case Ask():
                self.question = Question(action, verdict)
                self.question_top = 0
                if verdict.wants_reason and self.front is not None:
                    self.front.prompt.open(Asking.REASON)
            case Act(moves=()):
                self.exit()
            case Act():
                self._send(verdict.moves)
        self._draw_front()

    def _drop_outdated(self) -> None:
        """A question about something that has changed is withdrawn."""
        why = self.question.outdated(self.state) if self.question is not None else None
        if why is not None:
            self.question = None
            if self.front is not None and self.front.prompt.asking is Asking.REASON:
                self.front.prompt.close()
            self.notice(f"question dropped: {why}", "warn")

    def promote(self, label: str | None, *, override: bool) -> None:
        """Offer a release for the selected row: the newest that is not live, or the one that was named."""
        row = self.state.row
        barred = barrier(Action.PROMOTE, self.state, self.read_only)
        if barred is not None:
            self.notice(barred.why, "warn")
        elif row is None:
            self.notice("p off: no row is selected", "warn")
        else:
            self.notice(f"looking up the releases of {row.tenant} ...", "dim")
            self.run_worker(self._offer(row.key, label, override=override), group="offer", exclusive=True)

    def _may_ask(self) -> bool:
        """Whether a question that took a while may still be put: nobody types, asks or looks at anything else."""
        front = self.front
        return (
            front is not None
            and front.WHICH is Screen.TENANTS
            and front.prompt.asking is None
            and self.question is None
        )

    async def _offer(self, key: RowKey, label: str | None, *, override: bool) -> None:
        found = await self.asker.candidate(key, label)
        if found is None:
            return
        row = self.state.tenants.get(key)
        if row is None or self.state.tenant_list.selected != key or not self._may_ask():
            self.notice("p dropped: you have moved on", "dim")
            return
        self.notice("")
        candidate, gate = found
        verdict = offer(
            self.state, row, candidate, gate, override=override, read_only=self.read_only, make_key=self._make_key
        )
        self._follow_verdict(Action.PROMOTE, verdict)

    def _send(self, moves: Sequence[Move]) -> None:
        owns = self.sender.begin(moves)
        if len(owns) > 1:
            self.state.marks.clear()
        self.run_worker(self.sender.deliver(owns), group="moves")


def run(context: Context, *, read_only: bool = False, at: str | None = None) -> int:
    """Run the console on a hub until it is left. Returns the exit status: 0, or 128 + the signal that ended it.

    Args:
        read_only: started with --read-only; the context may say so as well.
        at: 'tenant' or 'tenant/route' to start on; with '@MS' on its events of that time.

    Raises:
        ConfigError: unsafe token file, unusable certificate authority.
    """
    while True:
        why = "--read-only" if read_only else f"context {context.name}" if context.read_only else None
        deck = Deck(
            HubPort(context),
            context=context.name,
            production=context.production,
            read_only=why,
            at=at,
            contexts=lambda: load_contexts()[0],
            driver_class=DeckDriver,
        )
        chosen = deck.run(mouse=False)
        if chosen is None:
            return deck.return_code or 0
        context, at = chosen, None
