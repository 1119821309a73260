"""Nodes: their links, their GPUs or none, their engines with loaded releases."""

from __future__ import annotations

from typing import Any

from loradeck.client.terminal_text import clean
from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import NODE_COLUMNS, node_cells
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.text.spans import Line, Span, line
from loradeck.tui.widgets.page import Page

PAGE_S = 1.0
"""How often a node's page is written anew."""


class NodesScreen(ListScreen):
    """The list of nodes."""

    WHICH = Screen.NODES
    COLUMNS = NODE_COLUMNS
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"

    def cells(self, key: Any) -> dict[str, Span] | None:
        """Cells of a node's line; None once it is gone."""
        node = self.state.nodes.get(key)
        return node_cells(self.state, node) if node is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """Details of the selected node."""
        state, node = self.state, self.state.nodes.get(self.state.node_list.selected or "")

        def write(room: int) -> list[Line]:
            return node_lines(state, node, width, room) if node is not None else nothing_selected()

        return self.above_tell(write, width, height), None

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
