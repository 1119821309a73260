"""The log, newest first, and whether its chain holds."""

from __future__ import annotations

from loradeck.client.terminal_text import clean
from loradeck.schemas.log import Event
from loradeck.tui.actions.window import Handlers
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import EVENT_COLUMNS, event_cells
from loradeck.tui.lines.events import event_lines
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.text.spans import Line, Span


class EventsScreen(ListScreen[Event]):
    """The list of events."""

    WHICH = Screen.EVENTS
    COLUMNS = EVENT_COLUMNS
    EMPTY = "no events"

    def cells_of(self, row: Event) -> dict[str, Span]:
        """Cells of a line."""
        return event_cells(self.state, row)

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open}

    def _open(self) -> None:
        state, event = self.state, self.selected
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

    def details(self, row: Event, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return event_lines(self.state, row, width)
