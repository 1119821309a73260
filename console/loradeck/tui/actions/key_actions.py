"""What each key does, by the name of its binding. What moves something goes on to the gate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.cells import chop_cells

from loradeck.client.terminal_text import clean
from loradeck.schemas.ids import PointerKey
from loradeck.tui.gate.decide import Action, barrier
from loradeck.tui.lines.rollback_panel import is_done, pin_command, wants_panel
from loradeck.tui.model.selectable_list import RowFilter
from loradeck.tui.model.state import Screen
from loradeck.tui.screens.help import HelpScreen
from loradeck.tui.screens.page import Page
from loradeck.tui.terminal.clipboard import TooLong, copied
from loradeck.tui.text.spans import line, plural
from loradeck.tui.widgets.prompt import Asking

if TYPE_CHECKING:
    from loradeck.tui.app import Deck


def _cut(text: str, width: int) -> list[str]:
    """A long line of JSON in pieces, so that digests and messages can be read whole."""
    return chop_cells(text, max(2, width)) or [""]


class Acts:
    """One method a binding, `do_` and its name; a key that belongs to one list is done by its screen, named alike."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def do_rollback(self) -> None:
        self._deck.moving.gate(Action.ROLLBACK)

    def do_undo(self) -> None:
        self._deck.moving.gate(Action.UNDO)

    def do_fallback(self) -> None:
        self._deck.moving.gate(Action.FALLBACK)

    def do_hold(self) -> None:
        self._deck.moving.gate(Action.HOLD)

    def do_promote(self) -> None:
        self._deck.moving.promote(None, override=False)

    def do_override(self) -> None:
        self._deck.moving.promote(None, override=True)

    def do_rewind(self) -> None:
        barred = barrier(Action.REWIND, self._deck.state, self._deck.read_only)
        if barred is not None:
            self._deck.notice(barred.why, "warn")
        elif self._deck.front is not None:
            self._deck.notice("14:05 (local), 14:05Z, 20m ago, or a rev", "dim")
            self._deck.front.prompt.open(Asking.MOMENT)

    def do_incident(self) -> None:
        barred = barrier(Action.ANNOTATE, self._deck.state, self._deck.read_only)
        if barred is not None:
            self._deck.notice(barred.why, "warn")
        elif (about := self._deck.moving.about()) is None:
            self._deck.notice("i off: no move of a pointer is selected", "warn")
        elif self._deck.front is not None:
            self._deck.moving.annotating = about  # what is selected while one types is another matter
            self._deck.notice("INC-2210 what happened; - for no incident", "dim")
            self._deck.front.prompt.open(Asking.INCIDENT)

    def do_confirm(self) -> None:
        question = self._deck.question
        if question is None:
            self._deck.notice("nothing waits for y", "dim")
            return
        if not self._deck.moving.is_seen(question):
            self._deck.notice("y not taken: your terminal has not shown the question yet", "warn")
            return
        if question.ask.wants_reason:
            self._deck.notice("type the reason, then enter", "warn")
            return
        self._deck.question = None
        if question.action is Action.QUIT:
            self._deck.exit()
        elif question.ask.order is not None:
            self._deck.run_worker(self._deck.sender.order(question.ask.order), group="moves")
        elif question.ask.signing is not None:
            self._deck.run_worker(self._deck.sender.sign(question.ask.signing), group="moves")
        else:
            self._deck.moving.send(question.ask.moves)

    def do_quit(self) -> None:
        if self._deck.state.screen is not Screen.TENANTS:
            self._deck.show_list(Screen.TENANTS)
        else:
            self._deck.moving.gate(Action.QUIT)

    def do_escape(self) -> None:
        """Out of whatever is innermost."""
        state = self._deck.state
        row = state.row
        if self._deck.question is not None:
            self._deck.question = None
        elif (
            state.screen is Screen.TENANTS and row is not None and self._closes_panel(row.key)
        ) or self._deck.sender.dismiss():
            pass
        elif state.listing.filter.pattern is not None:
            state.set_filter(RowFilter())
        elif state.screen is Screen.TENANTS and state.marks:
            state.marks.clear()
        elif state.screen is not Screen.TENANTS:
            self._deck.show_list(Screen.TENANTS)
        else:
            self._deck.notice("nothing is open here; q quits", "dim")

    def _closes_panel(self, key: PointerKey) -> bool:
        row = self._deck.state.tenants[key]
        if not wants_panel(self._deck.state, row) or row.pointer.last_move is None:
            return False
        if row.pointer.last_move in self._deck.state.dismissed:
            return False
        self._deck.state.dismissed.add(row.pointer.last_move)
        return True

    def do_copy(self) -> None:
        row = self._deck.state.row
        command = pin_command(row, self._deck.state, whole=True) if row is not None and not is_done(row) else None
        wanted = (command if self._deck.state.screen is Screen.TENANTS else None) or self._deck.state.identity
        if wanted is None:
            self._deck.notice("nothing to copy here", "dim")
        elif self._deck.terminal is not None:
            self._copy(wanted)

    def _copy(self, text: str) -> None:
        assert self._deck.terminal is not None
        try:
            self._deck.terminal.write(copied(text, os.environ))
        except TooLong as error:
            self._deck.notice(f"not copied: {error}", "warn")
        else:
            told = clean(text) if len(text) <= 64 else plural(len(text), "character")
            self._deck.notice(f"copied {told} (if your terminal allows OSC 52)")

    def do_mark(self) -> None:
        self._deck.state.toggle_mark()
        self._deck.state.listing.step(1)

    def do_sort(self) -> None:
        self._deck.state.next_sort()
        self._deck.notice(f"sorted by {self._deck.state.sort.value}", "dim")

    def do_mark_shown(self) -> None:
        if not self._deck.state.tenant_list.order:
            self._deck.notice("* off: no row is shown", "dim")
        self._deck.state.toggle_marks()

    def do_json(self) -> None:
        selected = self._deck.state.selected
        if selected is None:
            self._deck.notice("nothing is selected", "dim")
            return
        text = selected.model_dump_json(indent=2)
        self._deck.push_screen(
            Page(
                "json",
                lambda width: [line(part) for whole in text.splitlines() for part in _cut(clean(whole), width)],
                leaves="J",
            )
        )

    def do_down(self) -> None:
        self._deck.state.listing.step(1)

    def do_up(self) -> None:
        self._deck.state.listing.step(-1)

    def do_page_down(self) -> None:
        self._deck.state.listing.step(self._deck.front.grid.page if self._deck.front else 1)

    def do_page_up(self) -> None:
        self._deck.state.listing.step(-(self._deck.front.grid.page if self._deck.front else 1))

    def do_first(self) -> None:
        self._deck.state.listing.jump(0)

    def do_last(self) -> None:
        self._deck.state.listing.jump(-1)

    def do_tenants(self) -> None:
        self._deck.show_list(Screen.TENANTS)

    def do_nodes(self) -> None:
        self._deck.show_list(Screen.NODES)

    def do_jobs(self) -> None:
        self._deck.show_list(Screen.JOBS)

    def do_gates(self) -> None:
        self._deck.show_list(Screen.GATES)

    def do_adapters(self) -> None:
        self._deck.show_list(Screen.ADAPTERS)

    def do_data(self) -> None:
        self._deck.show_list(Screen.DATA)

    def do_events(self) -> None:
        self._deck.show_list(Screen.EVENTS)

    def do_help(self) -> None:
        self._deck.push_screen(HelpScreen(self._deck.state.screen))

    def do_filter(self) -> None:
        if self._deck.front is not None:
            self._deck.filter_before = self._deck.state.listing.filter
            before = self._deck.filter_before.text
            self._deck.front.prompt.open(Asking.FILTER, before, self._deck.typed.filters)

    def do_command(self) -> None:
        if self._deck.front is not None:
            self._deck.front.prompt.open(Asking.COMMAND, "", self._deck.typed.commands)
