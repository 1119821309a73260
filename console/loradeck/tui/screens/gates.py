"""Gate results on record, newest first: candidate against live, check by check."""

from __future__ import annotations

from typing import Any

from loradeck.tui.actions.key_actions import KeyActions
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.window import Handlers, Window
from loradeck.tui.hub.queries import Queries
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.key_checks.sign import signing_of
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.registry import GATE_COLUMNS, gate_cells, gate_lines
from loradeck.tui.model.registry import Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.screens.review import ReviewScreen
from loradeck.tui.text.spans import Line, Span


class GatesScreen(ListScreen):
    """The list of gate results."""

    WHICH = Screen.GATES
    COLUMNS = GATE_COLUMNS
    EMPTY = "no gate result on record: loradeck job evaluate TENANT RELEASE --suite SUITE"

    def __init__(
        self, window: Window, state: ConsoleState, moves: Moves, key_actions: KeyActions, queries: Queries
    ) -> None:
        super().__init__(window, state, moves, key_actions)
        self._queries = queries

    def cells(self, key: Any) -> dict[str, Span] | None:
        """Cells of a result's line; None once it is gone."""
        gate = self.state.registry.gates.get(key)
        return gate_cells(self.state, gate) if gate is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """Details of the selected result."""
        state, gate = self.state, self._selected

        def write(room: int) -> list[Line]:
            return gate_lines(state, gate, width) if gate is not None else nothing_selected()

        return self.above_tell(write, width, height), None

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open, Action.SIGN: self._sign}

    @property
    def _selected(self) -> Gate | None:
        state = self.state
        return state.registry.gates.get(state.gate_list.selected or 0)

    def _open(self) -> None:
        """The candidate's sampled answers, for as long as one looks at them."""
        gate = self._selected
        if gate is not None:
            candidate = gate.tenant, gate.route, gate.result.release
            reviewing = self.state.reviews.setdefault(candidate, Reviewing(candidate))
            self.app.push_screen(ReviewScreen(reviewing, self.state, self._queries), self._reviewed)

    def _reviewed(self, sign: bool | None) -> None:
        if sign:
            self._sign()

    def _sign(self) -> None:
        gate, state = self._selected, self.state
        candidate = (gate.tenant, gate.route, gate.result.release) if gate is not None else None
        reviewing = state.reviews.get(candidate) if candidate is not None else None
        self.moves.follow(Action.SIGN, signing_of(reviewing, gate, state, self.window.read_only))
