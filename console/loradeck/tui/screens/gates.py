"""Gate results on record, newest first: candidate against live, check by check."""

from __future__ import annotations

from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.sign import signing_of
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.registry import GATE_COLUMNS, gate_cells, gate_lines
from loradeck.tui.model.registry import Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.screens.review import ReviewScreen
from loradeck.tui.text.spans import Line, Span


class GatesScreen(ListScreen[Gate]):
    """The list of gate results."""

    WHICH = Screen.GATES
    COLUMNS = GATE_COLUMNS
    EMPTY = "no gate result on record: loradeck job evaluate TENANT RELEASE --suite SUITE"

    def cells_of(self, row: Gate) -> dict[str, Span]:
        """Cells of a line."""
        return gate_cells(self.state, row)

    def details(self, row: Gate, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return gate_lines(self.state, row, width)

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open, Action.SIGN: self._sign}

    def _open(self) -> None:
        """The candidate's sampled answers, for as long as one looks at them."""
        gate = self.selected
        if gate is not None:
            candidate = gate.tenant, gate.route, gate.result.release
            reviewing = self.state.reviews.setdefault(candidate, Reviewing(candidate))
            self.app.push_screen(ReviewScreen(reviewing, self.state, self.queries), self._reviewed)

    def _reviewed(self, sign: bool | None) -> None:
        if sign:
            self._sign()

    def _sign(self) -> None:
        gate, state = self.selected, self.state
        candidate = (gate.tenant, gate.route, gate.result.release) if gate is not None else None
        reviewing = state.reviews.get(candidate) if candidate is not None else None
        self.moves.follow(Action.SIGN, signing_of(reviewing, gate, state, self.window.read_only))
