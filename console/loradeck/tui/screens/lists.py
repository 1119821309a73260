"""The lists of nodes, jobs, gates, adapters, events, data, capacity, ml and campaigns. Tenants have a module."""

from collections.abc import Hashable
from functools import partial
from typing import Any

from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import Campaign
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.manifest import AdapterVersion, Form, Release
from loradeck.schemas.responses import ReleaseDetail
from loradeck.schemas.state import NodeRow
from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.orders import signing_of
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines import campaigns, capacity, columns, loop, registry
from loradeck.tui.lines.events import event_lines
from loradeck.tui.lines.jobs import job_lines
from loradeck.tui.lines.lineage import difference_lines, lineage_lines
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.registry import DataEntry, Gate
from loradeck.tui.model.review_draft import Reviewing
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.screens.pages import JobScreen, ReviewScreen
from loradeck.tui.screens.tenants import TenantsScreen
from loradeck.tui.text.spans import Line, Span, line
from loradeck.tui.widgets.page import Page

PAGE_S = 1.0
"""How often the page of a node or an adapter version is written anew: what is on it comes one after the other."""


class NodesScreen(ListScreen[NodeRow]):
    """The list of nodes."""

    WHICH = Screen.NODES
    COLUMNS = columns.NODE_COLUMNS
    CELLS = columns.node_cells
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"

    def details(self, row: NodeRow, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return node_lines(self.state, row, width, height)

    def open(self) -> None:
        """Opens the page of the selected node, for as long as one looks at it."""
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
    COLUMNS = columns.JOB_COLUMNS
    CELLS = columns.job_cells
    DETAILS = job_lines
    EMPTY = "no jobs"

    def open(self) -> None:
        """Opens the selected job's plots and log, for as long as one looks at them."""
        job = self.state.job_list.selected
        if job is not None:
            self.app.push_screen(JobScreen(FollowedJob(job), self.state, self.queries))


class GatesScreen(ListScreen[Gate]):
    """The list of gate results."""

    WHICH = Screen.GATES
    COLUMNS = registry.GATE_COLUMNS
    CELLS = registry.gate_cells
    DETAILS = registry.gate_lines
    EMPTY = "no gate result on record: loradeck job evaluate TENANT RELEASE --suite SUITE"

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {**super().handlers, Action.SIGN: self._sign}

    def open(self) -> None:
        """Opens the candidate's sampled answers, for as long as one looks at them."""
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


class AdaptersScreen(ListScreen[AdapterVersion]):
    """The list of adapter versions."""

    WHICH = Screen.ADAPTERS
    COLUMNS = registry.ADAPTER_COLUMNS
    CELLS = registry.adapter_cells
    DETAILS = registry.adapter_lines
    EMPTY = "no adapter yet: loradeck job train RECIPE, or loradeck adapter import"

    mark: str | None = None
    """The version that `d` compares the selected one with."""

    def marked(self) -> frozenset[Hashable]:
        """The version that is marked for comparison."""
        return frozenset({self.mark} if self.mark is not None else ())

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {**super().handlers, Action.MARK_VERSION: self._mark_version, Action.COMPARE: self._compare}

    def _mark_version(self) -> None:
        selected = self.selected
        if selected is None:
            self.window.notice("nothing is selected", "dim")
            return
        self.mark = None if self.mark == selected.digest else selected.digest
        if self.mark is not None:
            self.window.notice(
                f"{_name(selected)} is marked; {self.key(Action.COMPARE)} on another one compares them", "dim"
            )

    def _compare(self) -> None:
        """The marked version beside the selected one."""
        adapters, selected = self.state.registry.adapters, self.selected
        marked = adapters.get(self.mark or "")
        if selected is None or marked is None:
            mark = self.key(Action.MARK_VERSION)
            self.off(Action.COMPARE, f"mark a version with {mark}, then select the one to compare it with")
        elif marked is selected:
            self.off(Action.COMPARE, "the selected version is the marked one; select another")
        else:
            names = {digest: self.state.registry.name_of(digest) for digest in self.state.registry.data}
            what = " and ".join(dict.fromkeys(_adapter(one) for one in (marked, selected)))
            one, other = _detail(marked), _detail(selected)
            write = partial(difference_lines, what, one, other, names, sides=("marked", "selected"))
            self.app.push_screen(Page("difference", write, leaves=self.state.keys.of(Action.COMPARE)))

    def open(self) -> None:
        """Opens the lineage of the selected version."""
        version = self.selected
        if version is not None:
            self.app.push_screen(Page("lineage", partial(lineage_lines, self.state, version), every=PAGE_S))


class EventsScreen(ListScreen[Event]):
    """The list of events."""

    WHICH = Screen.EVENTS
    COLUMNS = columns.EVENT_COLUMNS
    CELLS = columns.event_cells
    DETAILS = event_lines
    EMPTY = "no events"

    def open(self) -> None:
        """Goes to the event's row on the tenants screen."""
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
                f"{self.key(Action.OPEN)} off: {name} is gone, or the filter of the tenants screen hides it", "warn"
            )


class DataScreen(ListScreen[DataEntry]):
    """The list of datasets and suites."""

    WHICH = Screen.DATA
    COLUMNS = registry.DATA_COLUMNS
    CELLS = registry.data_cells
    DETAILS = registry.data_lines
    EMPTY = "no dataset or suite yet: loradeck dataset add, loradeck suite add"


class CapacityScreen(ListScreen[CapacityRow]):
    """The list of pools, then nodes, with what they hold at each level."""

    WHICH = Screen.CAPACITY
    COLUMNS = capacity.CAPACITY_COLUMNS
    CELLS = capacity.capacity_cells
    DETAILS = capacity.capacity_lines
    EMPTY = "no node has connected: loradeck-agent run --config agent.toml"


class LoopScreen(ListScreen[LoopRow]):
    """The list of routes with how far each is between a signal and new weights."""

    WHICH = Screen.ML
    COLUMNS = loop.LOOP_COLUMNS
    CELLS = loop.loop_cells
    DETAILS = loop.loop_lines
    EMPTY = "nothing is live: loradeck promote"


class CampaignsScreen(ListScreen[Campaign]):
    """The list of campaigns, the newest first."""

    WHICH = Screen.CAMPAIGNS
    COLUMNS = campaigns.CAMPAIGN_COLUMNS
    CELLS = campaigns.campaign_cells
    DETAILS = campaigns.campaign_lines
    EMPTY = "no campaign yet: loradeck campaign start CAMPAIGN --base BASE"

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {**super().handlers, Action.REWIND: self.moves.rewind_campaign}

    def open(self) -> None:
        """Opens every route or node of the selected campaign."""
        name = self.state.campaign_list.selected
        if name is not None:
            self.app.push_screen(Page("campaign", partial(campaigns.campaign_page, self.state, name), every=PAGE_S))


LISTS: tuple[type[ListScreen[Any]], ...] = (
    TenantsScreen,
    NodesScreen,
    JobsScreen,
    GatesScreen,
    AdaptersScreen,
    EventsScreen,
    DataScreen,
    CapacityScreen,
    LoopScreen,
    CampaignsScreen,
)


def _adapter(version: AdapterVersion) -> str:
    return clean(f"{version.manifest.tenant}/{version.manifest.name}")


def _name(version: AdapterVersion) -> str:
    return f"{_adapter(version)} v{version.version}"


def _detail(version: AdapterVersion) -> ReleaseDetail:
    manifest = version.manifest
    release = Release(
        tenant=manifest.tenant,
        form=Form.ADAPTER,
        base=manifest.base,
        adapter=version.digest,
        label=f"v{version.version}",
    )
    return ReleaseDetail(release=release, manifest=manifest)
