"""Datasets and suites with where they come from and what they may be used for."""

from __future__ import annotations

from typing import Any

from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.registry import DATA_COLUMNS, data_cells, data_lines
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.text.spans import Line, Span


class DataScreen(ListScreen):
    """The list of datasets and suites."""

    WHICH = Screen.DATA
    COLUMNS = DATA_COLUMNS
    EMPTY = "no dataset or suite yet: loradeck dataset add, loradeck suite add"

    def cells(self, key: Any) -> dict[str, Span] | None:
        """Cells of an entry's line; None once it is gone."""
        entry = self.state.registry.data.get(key)
        return data_cells(entry) if entry is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """Details of the selected entry."""
        state = self.state
        entry = state.registry.data.get(state.data_list.selected or "")
        return (data_lines(state, entry, width) if entry is not None else nothing_selected()), None
