"""Gate results on record, newest first: candidate against live, check by check."""

from __future__ import annotations

from typing import Any

from loradeck.tui.records import GATE_COLUMNS, gate_cells, gate_lines
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.seen import Shown
from loradeck.tui.state import Screen
from loradeck.tui.text import Line, Span


class GatesScreen(ListScreen):
    WHICH = Screen.GATES
    COLUMNS = GATE_COLUMNS
    EMPTY = "no gate result on record: loradeck job evaluate TENANT RELEASE --suite SUITE"

    def cells(self, key: Any) -> dict[str, Span] | None:
        gate = self.deck.state.registry.gates.get(key)
        return gate_cells(self.deck.state, gate) if gate is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        state = self.deck.state
        gate = state.registry.gates.get(state.gate_list.selected or 0)
        return (gate_lines(state, gate, width) if gate is not None else nothing_selected()), None
