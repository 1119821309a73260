"""Every tenant's pointer with the pinned preview, or the rollback panel while a move is under way."""

from __future__ import annotations

from typing import Any

from loradeck.tui.columns import TENANT_COLUMNS, tenant_cells
from loradeck.tui.dispatch import Action, Ask, Verdict, barrier, decide, shown_of
from loradeck.tui.panel import has_preview, panel_lines, wants_panel
from loradeck.tui.preview import preview_lines, tell_line
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.seen import Shown
from loradeck.tui.state import Screen
from loradeck.tui.text import Line, Span, plural


class TenantsScreen(ListScreen):
    WHICH = Screen.TENANTS
    COLUMNS = TENANT_COLUMNS
    EMPTY = "no tenants yet: loradeck tenant create NAME"

    def cells(self, key: Any) -> dict[str, Span] | None:
        row = self.deck.state.tenants.get(key)
        return tenant_cells(self.deck.state, row) if row is not None else None

    def do_enter(self) -> None:
        row = self.deck.state.row
        if row is not None:
            self.deck.show_events(f" {row.tenant}/{row.route} ")

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        deck, state = self.deck, self.deck.state
        row = state.row
        if row is None:
            return [*nothing_selected(), tell_line(state.tell)], None
        frame = deck.sight.look()
        if state.marks:  # the list is put together when R is pressed, and not at every frame
            barred = barrier(Action.ROLLBACK, state, deck.read_only)
            rollback: Verdict = barred or Ask(f"R on {plural(len(state.marks), 'marked row')}")
        else:
            rollback = decide(Action.ROLLBACK, state, frame, read_only=deck.read_only)
        undo = decide(Action.UNDO, state, frame, read_only=deck.read_only)
        if wants_panel(state, row):
            lines = panel_lines(state, row, width, height, rollback=rollback, undo=undo)
            return lines, shown_of(row, panel=not has_preview(state, row))
        return preview_lines(state, row, width, rollback=rollback, undo=undo), shown_of(row)
