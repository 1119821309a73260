"""The lists of nodes, jobs, gate results, events and data. Those of tenants and adapters have modules of their own."""

from __future__ import annotations

from loradeck.client.terminal_text import clean
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.state import NodeRow
from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.sign import signing_of
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.columns import EVENT_COLUMNS, JOB_COLUMNS, NODE_COLUMNS, event_cells, job_cells, node_cells
from loradeck.tui.lines.events import event_lines
from loradeck.tui.lines.jobs import job_lines
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.lines.registry import DATA_COLUMNS, GATE_COLUMNS, data_cells, data_lines, gate_cells, gate_lines
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.registry import DataEntry, Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.screens.job import JobScreen
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.screens.review import ReviewScreen
from loradeck.tui.text.spans import Line, Span, line
from loradeck.tui.widgets.page import Page

PAGE_S = 1.0
"""How often a node's page is written anew."""


class NodesScreen(ListScreen[NodeRow]):
    """The list of nodes."""

    WHICH = Screen.NODES
    COLUMNS = NODE_COLUMNS
    CELLS = node_cells
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"

    def details(self, row: NodeRow, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return node_lines(self.state, row, width, height)

    def open(self) -> None:
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


class JobsScreen(ListScreen[Job]):
    """The list of jobs."""

    WHICH = Screen.JOBS
    COLUMNS = JOB_COLUMNS
    CELLS = job_cells
    DETAILS = job_lines
    EMPTY = "no jobs"

    def open(self) -> None:
        """The selected job's plots and log, for as long as one looks at them."""
        job = self.state.job_list.selected
        if job is not None:
            self.app.push_screen(JobScreen(FollowedJob(job), self.state, self.queries))


class GatesScreen(ListScreen[Gate]):
    """The list of gate results."""

    WHICH = Screen.GATES
    COLUMNS = GATE_COLUMNS
    CELLS = gate_cells
    DETAILS = gate_lines
    EMPTY = "no gate result on record: loradeck job evaluate TENANT RELEASE --suite SUITE"

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {**super().handlers, Action.SIGN: self._sign}

    def open(self) -> None:
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
        self.moves.follow(Action.SIGN, signing_of(reviewing, gate, state))


class EventsScreen(ListScreen[Event]):
    """The list of events."""

    WHICH = Screen.EVENTS
    COLUMNS = EVENT_COLUMNS
    CELLS = event_cells
    DETAILS = event_lines
    EMPTY = "no events"

    def open(self) -> None:
        """The event's row on the tenants screen."""
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


class DataScreen(ListScreen[DataEntry]):
    """The list of datasets and suites."""

    WHICH = Screen.DATA
    COLUMNS = DATA_COLUMNS
    CELLS = data_cells
    DETAILS = data_lines
    EMPTY = "no dataset or suite yet: loradeck dataset add, loradeck suite add"
