"""The log, newest first, and whether its chain holds."""

from __future__ import annotations

from typing import Any

from loradeck.client.terminal_text import clean
from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import EVENT_COLUMNS, event_cells
from loradeck.tui.lines.events import event_lines
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.text.spans import Line, Span


class EventsScreen(ListScreen):
    """The list of events."""

    WHICH = Screen.EVENTS
    COLUMNS = EVENT_COLUMNS
    EMPTY = "no events"

    def cells(self, key: Any) -> dict[str, Span] | None:
        """Cells of an event's line; None once it is gone."""
        event = self.state.events.get(key)
        return event_cells(self.state, event) if event is not None else None

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open}

    def _open(self) -> None:
        state = self.state
        event = state.events.get(state.event_list.selected or 0)
        if event is None:
            return
        if not event.route:
            self.window.notice(
                f"{self.key(Action.OPEN)} off: this event is of no pointer of {clean(event.tenant)}", "dim"
            )
        elif state.tenant_list.choose((event.tenant, event.route)):
            self.window.show_list(Screen.TENANTS)
        else:
            name = clean(f"{event.tenant}/{event.route}")
            self.window.notice(
                f"{self.key(Action.OPEN)} off: {name} is gone, or the filter of the tenants screen hides it",
                "warn",
            )

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """Details of the selected event."""
        state = self.state
        event = state.events.get(state.event_list.selected or 0)
        return (event_lines(state, event, width) if event is not None else nothing_selected()), None
