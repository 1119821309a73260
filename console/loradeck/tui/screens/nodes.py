"""Nodes: their links, their GPUs or none, their engines with loaded releases."""

from __future__ import annotations

from loradeck.client.terminal_text import clean
from loradeck.schemas.state import NodeRow
from loradeck.tui.actions.window import Handlers
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import NODE_COLUMNS, node_cells
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.text.spans import Line, Span, line
from loradeck.tui.widgets.page import Page

PAGE_S = 1.0
"""How often a node's page is written anew."""


class NodesScreen(ListScreen[NodeRow]):
    """The list of nodes."""

    WHICH = Screen.NODES
    COLUMNS = NODE_COLUMNS
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"

    def cells_of(self, row: NodeRow) -> dict[str, Span]:
        """Cells of a line."""
        return node_cells(self.state, row)

    def details(self, row: NodeRow, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return node_lines(self.state, row, width, height)

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open}

    def _open(self) -> None:
        """Everything about the selected node, for as long as one looks at it."""
        state, name = self.state, self.state.node_list.selected
        if name is None:
            return

        def write(width: int) -> list[Line]:
            node = state.nodes.get(name)
            if node is None:
                return [line(Span(f" {clean(name)}: the hub lists no such node any more", "warn"))]
            return node_page(state, node, width)

        self.app.push_screen(Page("node", write, every=PAGE_S))
