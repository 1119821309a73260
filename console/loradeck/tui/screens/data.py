"""Datasets and suites with where they come from and what they may be used for."""

from __future__ import annotations

from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.registry import DATA_COLUMNS, data_cells, data_lines
from loradeck.tui.model.registry import DataEntry
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.text.spans import Line, Span


class DataScreen(ListScreen[DataEntry]):
    """The list of datasets and suites."""

    WHICH = Screen.DATA
    COLUMNS = DATA_COLUMNS
    EMPTY = "no dataset or suite yet: loradeck dataset add, loradeck suite add"

    def cells_of(self, row: DataEntry) -> dict[str, Span]:
        """Cells of a line."""
        return data_cells(row)

    def details(self, row: DataEntry, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return data_lines(self.state, row, width)
