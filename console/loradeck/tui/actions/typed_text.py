"""What becomes of typed text: a filter, a command, a reason, a time, an incident."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loradeck.client.errors import ClientError
from loradeck.client.terminal_text import clean
from loradeck.client.timeline import as_json, as_markdown, timeline
from loradeck.tui.actions.command_line import CommandError, parse
from loradeck.tui.gate.decide import Action, annotate, barrier
from loradeck.tui.hub.port import HubPort
from loradeck.tui.lines.outcome import said
from loradeck.tui.model.selectable_list import FilterError, RowFilter
from loradeck.tui.model.state import Screen
from loradeck.tui.terminal.save_screen import default_name, save
from loradeck.tui.text.line_editor import Recall
from loradeck.tui.text.spans import plural
from loradeck.tui.widgets.prompt import Asking

if TYPE_CHECKING:
    from loradeck.tui.app import Deck


MOVES = {
    "rollback": Action.ROLLBACK,
    "undo": Action.UNDO,
    "fallback": Action.FALLBACK,
    "hold": Action.HOLD,
}
"""Commands that do what a key does on the selected row."""


class Typed:
    """Takes what the line above the footer was given."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.commands, self.filters = Recall(), Recall()

    def filter_typed(self, text: str) -> None:
        """While a filter is typed the list follows; a half-typed expression leaves it as it is."""
        with contextlib.suppress(FilterError):
            self._deck.state.set_filter(RowFilter.parse(text))
        self._deck.draw_front()

    def prompt_left(self) -> None:
        """Esc in an input."""
        front = self._deck.front
        if front is None:
            return
        if front.prompt.asking is Asking.FILTER:
            self._deck.state.set_filter(self._deck.filter_before)
        self._deck.question = None
        front.prompt.close()
        self._deck.draw_front()

    def submitted(self, asking: Asking, text: str) -> None:
        """Enter in an input."""
        front = self._deck.front
        if front is None:
            return
        if asking is Asking.REASON:
            self._reasoned(text)
        elif asking is Asking.INCIDENT:
            front.prompt.close()
            self._deck.moving.follow(
                Action.ANNOTATE,
                annotate(
                    self._deck.state,
                    self._deck.moving.annotating,
                    text,
                    read_only=self._deck.read_only,
                    make_key=self._deck.make_key,
                ),
            )
        elif asking is Asking.MOMENT:
            if self._deck.moving.rewind_to(text):
                front.prompt.close()
        elif asking is Asking.FILTER:
            front.prompt.close()
            self.filters.add(text)
            try:
                self._deck.state.set_filter(RowFilter.parse(text))
            except FilterError as error:
                self._deck.state.set_filter(self._deck.filter_before)
                self._deck.notice(clean(str(error)), "bad")
        else:
            front.prompt.close()
            self.commands.add(text)
            self._run_command(text)
        self._deck.draw_front()

    def _reasoned(self, text: str) -> None:
        """The typed reason of an override: sends the question it belongs to."""
        front, question = self._deck.front, self._deck.question
        if front is None or question is None:
            return
        if not text.strip():
            self._deck.notice("a reason is needed; esc leaves", "warn")
            return
        if not self._deck.moving.is_seen(question):
            self._deck.notice("not sent: your terminal has not shown the question yet", "warn")
            return
        front.prompt.close()
        self._deck.question = None
        self._deck.moving.send([move.because(text.strip()) for move in question.ask.moves])

    def _run_command(self, text: str) -> None:
        try:
            command, argument = parse(text)
        except CommandError as error:
            self._deck.notice(clean(str(error)), "bad")
            return
        match command:
            case "":
                return
            case "q":
                self._deck.moving.gate(Action.QUIT)
            case "promote" | "promote!":
                self._deck.show_list(Screen.TENANTS)
                self._deck.moving.promote(argument or None, override=command.endswith("!"))
            case "rollback" | "undo" | "fallback" | "hold":
                self._deck.show_list(Screen.TENANTS)
                self._deck.moving.gate(MOVES[command])
            case "events":
                self._deck.show_events(argument)
            case "save":
                self.save(argument)
            case "export":
                self.export(argument)
            case "ctx":
                self.switch(argument)
            case "rewind":
                self._deck.show_list(Screen.TENANTS)
                barred = barrier(Action.REWIND, self._deck.state, self._deck.read_only)
                if barred is not None:
                    self._deck.notice(barred.why, "warn")
                elif not argument or not self._deck.moving.rewind_to(argument):
                    self._deck.acts.do_rewind()
            case _:
                getattr(self._deck.acts, f"do_{command}")()

    def save(self, name: str) -> None:
        """The list in front and its pane, as a file. Without a name: one with the time."""
        front = self._deck.front
        if front is None:
            return
        now_ms = self._deck.state.hub_now_ms or int(time.time() * 1000)
        path = self._write(name or str(default_name(front.WHICH.value, now_ms)), front.as_text())
        if path is not None:
            self._deck.notice(f"saved {plural(len(self._deck.state.listing.order), 'row')} to {path}")

    def _write(self, name: str, text: str) -> str | None:
        """Writes a new file. Returns where it is; None: it was told why there is none."""
        path = Path(name)
        try:
            path = path.expanduser()
            save(path, text)
        except (OSError, RuntimeError, ValueError) as error:  # the last two: no such user, a zero byte
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._deck.notice(f"not saved: {clean(str(path))}: {clean(why or '')}", "bad")
            return None
        return clean(str(path.resolve()))

    def export(self, name: str) -> None:
        """The events that the events screen lists, as a timeline in a new file. Its ending says which kind."""
        state = self._deck.state
        write = {".md": as_markdown, ".json": as_json}.get(Path(name).suffix.lower())
        if write is None:
            self._deck.notice("export FILE.md or FILE.json", "warn")
            return
        state.arrange(force=True)
        shown, kept = state.event_list, len(state.events)
        scope = f"{len(shown.order):,} of the {kept:,} newest events that a console held"
        scope += f", filter {shown.filter.text}" if shown.filter.text else ""
        made = timeline(
            (state.events[rev] for rev in shown.order),
            hub=state.status.hub if state.status is not None else self._deck.context,
            made_ms=state.hub_now_ms or int(time.time() * 1000),
            scope=scope,
        )
        path = self._write(name, write(made, state.name_of))
        if path is not None:
            told = f"exported {plural(len(made.events), 'event')} to {path}; chain: {made.chain}"
            self._deck.notice(told, "bad" if made.broken else "")

    def switch(self, name: str) -> None:
        """Another hub: this console ends, and one on that hub begins without marks, filter or anything pending."""
        try:
            contexts = self._deck.contexts()
        except ClientError as error:
            self._deck.notice(f"ctx off: {said(error)}", "bad")
            return
        known = ", ".join(clean(known) for known in sorted(contexts)) or "none"
        if not name:
            self._deck.notice(f"here: {clean(self._deck.context)}; known: {known}")
        elif name not in contexts:
            self._deck.notice(f"no context {clean(name)!r}; known: {known}", "warn")
        elif self._deck.state.unsettled:
            self._deck.notice("ctx off: your last move has not settled", "warn")
        else:
            try:
                HubPort(contexts[name])  # what does not work there keeps this console
            except ClientError as error:
                self._deck.notice(f"ctx off: {said(error)}", "bad")
                return
            self._deck.exit(contexts[name])
