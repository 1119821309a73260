"""Nodes: whether they are heard, their GPUs or none, their engines and what these have loaded."""

from __future__ import annotations

from typing import Any

from loradeck.tui.columns import NODE_COLUMNS, node_cells
from loradeck.tui.details import node_lines
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.seen import Shown
from loradeck.tui.state import Screen
from loradeck.tui.text import Line, Span


class NodesScreen(ListScreen):
    WHICH = Screen.NODES
    COLUMNS = NODE_COLUMNS
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"

    def cells(self, key: Any) -> dict[str, Span] | None:
        node = self.deck.state.nodes.get(key)
        return node_cells(self.deck.state, node) if node is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        state = self.deck.state
        node = state.nodes.get(state.node_list.selected or "")
        return (node_lines(state, node, width, height) if node is not None else nothing_selected()), None
