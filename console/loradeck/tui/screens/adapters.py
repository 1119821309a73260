"""Adapter versions: where each comes from, what it scored, and where it is live."""

from __future__ import annotations

from typing import Any

from loradeck.tui.records import ADAPTER_COLUMNS, adapter_cells, adapter_lines
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.seen import Shown
from loradeck.tui.state import Screen
from loradeck.tui.text import Line, Span


class AdaptersScreen(ListScreen):
    WHICH = Screen.ADAPTERS
    COLUMNS = ADAPTER_COLUMNS
    EMPTY = "no adapter yet: loradeck job train RECIPE, or loradeck adapter import"

    def cells(self, key: Any) -> dict[str, Span] | None:
        version = self.deck.state.registry.adapters.get(key)
        return adapter_cells(self.deck.state, version) if version is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        state = self.deck.state
        version = state.registry.adapters.get(state.adapter_list.selected or "")
        return (adapter_lines(state, version, width) if version is not None else nothing_selected()), None
