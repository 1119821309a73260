"""What the console knows, how old it is, and what is selected. Knows no toolkit and sends nothing.

Times are seconds of one monotonic clock, given in, so that tests can turn it. The hub's wall clock is
followed by its status messages and counted on by the monotonic clock in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TypeVar

from pydantic import BaseModel

from loradeck.client.state_list import StateRead
from loradeck.client.terminal_text import clean
from loradeck.rules.moves.chain import ChainCheck
from loradeck.schemas.feed import (
    FeedEvents,
    FeedJobs,
    FeedMessage,
    FeedNodes,
    FeedReset,
    FeedStatus,
    FeedTenants,
)
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import MOVES, Event
from loradeck.schemas.related import RelatedReleases
from loradeck.schemas.state import HubStatus, Me, NodeRow, ReleaseView, TenantRow
from loradeck.tui.model import list_order as order
from loradeck.tui.model.hardware_history import History
from loradeck.tui.model.list_order import Arranging, Ordered, Sort
from loradeck.tui.model.own_moves import OPEN, Move, MoveKind, OwnMove, Phase, Tell
from loradeck.tui.model.registry import Fetch, Registry
from loradeck.tui.model.review_draft import Candidate, Reviewing
from loradeck.tui.model.row_summaries import NodeRows, TenantRows, node_rows, tenant_rows
from loradeck.tui.model.selectable_list import Listing, RowFilter
from loradeck.tui.text.spans import clock, dated, release

STALE_S = 4.0
"""The hub says something at least every two seconds; after this long without a word its figures are stale."""

FREEZE_S = 2.0
"""The order of rows stays as it is for this long after a key."""

SETTLING_S = 10.0
"""How long a move may be under way before what has not acknowledged is called NOT DONE."""

DAY_S = 24 * 3600.0

EVENTS_KEPT = 2000

STEP = 40
"""Rows taken in between two turns of the event loop: some milliseconds."""

VIEWS_KEPT = 4000
"""Releases whose names are remembered; those seen last."""


class Link(StrEnum):
    """What is between the console and its hub. Each looks different on the screen."""

    CONNECTING = "connecting"  # nothing was listed yet
    LIVE = "live"
    STALE = "stale"  # connected, but silent for longer than STALE_S
    LOST = "lost"  # not connected; what is shown is from before


class Screen(StrEnum):
    TENANTS = "tenants"
    NODES = "nodes"
    JOBS = "jobs"
    GATES = "gates"
    ADAPTERS = "adapters"
    EVENTS = "events"
    DATA = "data"


FETCHED = frozenset({Screen.GATES, Screen.ADAPTERS, Screen.DATA})
"""Screens whose rows the feed does not bring."""

ORDERED = frozenset({Screen.NODES, Screen.JOBS, Screen.GATES})
"""Screens whose rows take orders or signatures."""


@dataclass(frozen=True)
class Changed:
    """Which parts a feed message touched, so that only they are drawn again."""

    tenants: frozenset[PointerKey] = frozenset()
    nodes: bool = False
    jobs: bool = False
    events: bool = False
    status: bool = False


K = TypeVar("K", bound=Hashable)
Rank = Callable[["ConsoleState"], Callable[[K], object]]
Text = Callable[["ConsoleState", K], str]


@dataclass
class ConsoleState:
    """The last that the hub said, applied message by message."""

    clock: Callable[[], float] = time.monotonic
    status: HubStatus | None = None
    me: Me | None = None
    tenants: TenantRows = field(default_factory=tenant_rows)
    nodes: NodeRows = field(default_factory=node_rows)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    """By rev, oldest first."""

    history: History = field(default_factory=History)
    chain: ChainCheck = field(default_factory=ChainCheck)

    received: dict[tuple[str, Hashable], float] = field(default_factory=dict)
    """When a row came since the whole was listed: ("tenant", key) or ("node", name) to monotonic seconds."""

    asked: dict[PointerKey, float] | None = None
    """Rows whose figures the hub was asked for, and since when figures of theirs are new enough; None: of all."""

    asked_nodes: dict[str, float] | None = None
    """The same of nodes."""

    screen: Screen = Screen.TENANTS
    sort: Sort = Sort.ATTENTION
    tenant_list: Listing[PointerKey] = field(default_factory=Listing)
    node_list: Listing[str] = field(default_factory=Listing)
    job_list: Listing[str] = field(default_factory=Listing)
    event_list: Listing[int] = field(default_factory=Listing)
    gate_list: Listing[int] = field(default_factory=Listing)
    adapter_list: Listing[str] = field(default_factory=Listing)
    data_list: Listing[str] = field(default_factory=Listing)
    registry: Registry = field(default_factory=Registry)
    fetches: dict[Screen, Fetch] = field(default_factory=lambda: {which: Fetch() for which in FETCHED})
    reviews: dict[Candidate, Reviewing] = field(default_factory=dict)
    """Candidates whose answers were looked at here."""

    marks: list[PointerKey] = field(default_factory=list)

    company: dict[PointerKey, RelatedReleases] = field(default_factory=dict)
    """What other live releases share with a row's, of rows that were looked at."""

    own: list[OwnMove] = field(default_factory=list)
    """Moves sent by this console, oldest first."""

    tell: Tell | None = None
    order_tell: Tell | None = None
    """The last order to a node or a job, or signature, until esc."""

    dismissed: set[str] = field(default_factory=set)
    """Events whose rollback panel was closed with esc."""

    last_key_at: float | None = None
    heard_at: float | None = None
    connected: bool = False
    link_lost_at: float | None = None
    link_trouble: str = ""
    _status_at: float = 0.0
    _listed_at: float = 0.0
    _bases: dict[str, str] = field(default_factory=dict)
    _views: dict[str, ReleaseView] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def ordered(listing: Listing[K], rows: Callable[[], Iterable[K]], by: Rank[K], text: Text[K]) -> Ordered[K]:
            return Ordered(listing, rows, partial(by, self), partial(text, self))

        registry = self.registry
        self._arranging = Arranging[Screen](
            {
                Screen.TENANTS: ordered(self.tenant_list, lambda: self.tenants, order.tenants, order.tenant_text),
                Screen.NODES: ordered(self.node_list, lambda: self.nodes, order.nodes, order.node_text),
                Screen.JOBS: ordered(self.job_list, lambda: self.jobs, order.jobs, order.job_text),
                Screen.GATES: ordered(self.gate_list, lambda: registry.gates, order.newest_first, order.gate_text),
                Screen.ADAPTERS: ordered(
                    self.adapter_list, lambda: registry.adapters, order.adapters, order.adapter_text
                ),
                Screen.EVENTS: ordered(self.event_list, lambda: self.events, order.newest_first, order.event_text),
                Screen.DATA: ordered(self.data_list, lambda: registry.data, order.data, order.data_text),
            }
        )

    # ---- the feed ------------------------------------------------------------------------------------------

    def load(self, state: StateRead) -> Changed:
        """A full list: replaces everything the hub had said before."""
        before = set(self.tenants)
        for _ in self.loading(state):
            pass
        return Changed(frozenset(before | set(self.tenants)), nodes=True, jobs=True, events=True, status=True)

    def loading(self, state: StateRead) -> Iterator[None]:
        """`load` in steps of a few milliseconds, so that keys come through. Rows are replaced with the last step."""
        tenants, nodes = tenant_rows(), node_rows()
        named = {event.tenant for event in state.events}
        for n, row in enumerate(state.tenants):
            tenants[row.key] = row
            if row.tenant in named:
                self._learn(row)
            self._learn_bases(row)
            if n % STEP == STEP - 1:
                yield
        for n, node in enumerate(state.nodes):
            nodes[node.node] = node
            self.history.take(node, self.clock())
            if n % STEP == STEP - 1:
                yield
        now = self._heard()
        self.me = state.me
        self.tenants, self.nodes = tenants, nodes
        self.jobs = {job.id: job for job in state.jobs}
        self.received = {}
        self._listed_at = now
        self._add_events(state.events, replace=True)
        self._set_status(state.status, now)
        self.history.keep(self.nodes)
        self._arranging.due(*Screen)
        self.marks = [key for key in self.marks if key in self.tenants]
        self.arrange()

    def apply(self, message: FeedMessage) -> Changed:
        """One message of the feed, in the order they came."""
        now = self._heard()
        match message:
            case FeedTenants():
                for row in message.rows:
                    self.tenants[row.key] = row
                    self.received["tenant", row.key] = now
                    self._learn(row)
                gone = {(tenant, route) for tenant, route in message.gone}
                for key in gone:
                    self.tenants.pop(key, None)
                    self.received.pop(("tenant", key), None)
                self.marks = [key for key in self.marks if key not in gone]
                return Changed(frozenset({row.key for row in message.rows} | gone))
            case FeedNodes():
                for node in message.rows:
                    self.nodes[node.node] = node
                    self.received["node", node.node] = now
                    self._learn_node(node)
                return Changed(nodes=True, status=True)
            case FeedJobs():
                for job in message.rows:
                    self.jobs[job.id] = job
                self._arranging.due(Screen.JOBS)
                return Changed(jobs=True)
            case FeedEvents():
                self._add_events(message.events)
                self._arranging.due(Screen.EVENTS)
                return Changed(events=True)
            case FeedStatus():
                self._set_status(message.status, now)
                return Changed(status=True)
            case FeedReset():
                return Changed()

    def link_up(self) -> None:
        """The feed is connected again."""
        self.connected = True
        self.link_lost_at = None
        self.link_trouble = ""

    def link_down(self, why: str) -> None:
        """The feed broke off; what is held stays, and ages on."""
        if self.connected or self.link_lost_at is None:
            self.link_lost_at = self.clock()
        self.connected = False
        self.link_trouble = why

    def _heard(self) -> float:
        now = self.clock()
        self.heard_at = now
        self.link_up()
        return now

    def _set_status(self, status: HubStatus, now: float) -> None:
        self.status = status
        self._status_at = now

    def _add_events(self, events: tuple[Event, ...], *, replace: bool = False) -> None:
        if replace:
            self.chain = ChainCheck()
        self.chain.add(events)
        held = {} if replace else self.events
        held.update((event.rev, event) for event in events)
        self.events = {rev: held[rev] for rev in sorted(held)[-EVENTS_KEPT:]}

    def _learn(self, row: TenantRow) -> None:
        views = [row.live, row.preview.target, *(skipped.release for skipped in row.preview.skipped)]
        self.learn(row.tenant, (view for view in views if view is not None))
        self._learn_bases(row)

    def _learn_bases(self, row: TenantRow) -> None:
        if row.live is not None:
            self._bases[row.live.base] = row.live.base_label

    def _learn_node(self, node: NodeRow) -> None:
        self.history.take(node, self.clock())
        for replica in node.replicas:
            self._remember(replica.loaded)

    # ---- ages and the link ---------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        if self.status is None:
            return Link.CONNECTING
        if not self.connected:
            return Link.LOST
        return Link.STALE if self.silent_s > STALE_S else Link.LIVE

    @property
    def silent_s(self) -> float:
        """Seconds since the hub last said anything."""
        return self.clock() - self.heard_at if self.heard_at is not None else 0.0

    @property
    def hub_now_ms(self) -> int | None:
        """The hub's wall clock, counted on since its last status."""
        if self.status is None:
            return None
        return self.status.at_ms + int((self.clock() - self._status_at) * 1000)

    def when(self, ms: int, *, seconds: bool = False) -> str:
        """A moment of the hub's clock for columns: the time, and for older than a day the date with it."""
        old = self.age_of(ms)
        return clock(ms, seconds=seconds) if old is None or old < DAY_S else dated(ms)

    def since_received(self, kind: str, key: Hashable) -> float:
        """Seconds a row's own ages have to be counted on by."""
        if self.status is None:
            return 0.0
        return self.clock() - self.received.get((kind, key), self._listed_at)

    def ask_for(self, rows: Collection[PointerKey], nodes: Collection[str]) -> None:
        """The hub has been asked for the figures of these rows and nodes, and of no others."""
        now = self.clock()
        # What came within the last seconds is as new as what a live row shows.
        self.asked = {key: (self.asked or {}).get(key, now - STALE_S) for key in rows}
        self.asked_nodes = {name: (self.asked_nodes or {}).get(name, now - STALE_S) for name in nodes}

    def is_fresh_node(self, name: str) -> bool:
        """The same of a node."""
        if self.asked_nodes is None:
            return True
        since = self.asked_nodes.get(name)
        return since is not None and self.received.get(("node", name), self._listed_at) >= since

    def is_fresh(self, key: PointerKey) -> bool:
        """Whether a row's figures are of now; those of a row that nobody looked at may be hours old."""
        if self.asked is None:
            return True
        since = self.asked.get(key)
        return since is not None and self.received.get(("tenant", key), self._listed_at) >= since

    def age_of(self, at_ms: int | None) -> float | None:
        """Seconds since a moment of the hub's clock."""
        now = self.hub_now_ms
        return None if at_ms is None or now is None else max(0.0, (now - at_ms) / 1000)

    # ---- rows ----------------------------------------------------------------------------------------------

    @property
    def row(self) -> TenantRow | None:
        """The selected pointer."""
        return self.tenants.get(self.tenant_list.selected) if self.tenant_list.selected else None

    def view(self, digest: str | None) -> ReleaseView | None:
        """A release by its id, as far as any row has shown it."""
        return self._views.get(digest) if digest else None

    def learn(self, tenant: str, views: Iterable[ReleaseView]) -> None:
        """What a tenant's releases are called."""
        found = tuple(views)
        self._owners.update((view.id, tenant) for view in found)
        self._remember(found)

    def _remember(self, views: Iterable[ReleaseView]) -> None:
        """Of a fleet that moves all day the names would be without end."""
        for view in views:
            self._views.pop(view.id, None)
            self._views[view.id] = view
        while len(self._views) > VIEWS_KEPT:
            oldest = next(iter(self._views))
            del self._views[oldest]
            self._owners.pop(oldest, None)

    def base_label(self, base: str) -> str | None:
        """What a base is called, as far as any row has shown it: 'B1'."""
        return self._bases.get(base)

    def unnamed(self, events: Iterable[Event]) -> list[str]:
        """Tenants of whose releases events name one that no row has described, each once."""
        tenants = {
            event.tenant: None
            for event in events
            for digest in (event.from_release, event.to_release)
            if digest is not None and digest not in self._views
        }
        return list(tenants)

    def owner_of(self, digest: str) -> str | None:
        """The tenant of a release, as far as any row has shown it."""
        return self._owners.get(digest)

    def name_of(self, digest: str | None) -> str:
        """A release for people: 'v7/B2', or the first characters of an id nobody has described."""
        view = self.view(digest)
        if view is not None:
            return release(view)
        return digest[:6] if digest else "none"

    def label_of(self, digest: str | None) -> str:
        """A release's label alone: 'v7'."""
        view = self.view(digest)
        return clean(view.label) if view is not None else digest[:6] if digest else "none"

    def last_move(self, row: TenantRow) -> Event | None:
        """The event that last moved a pointer, if it is still held."""
        last = row.last_event
        if last is not None and last.kind in MOVES and last.id == row.pointer.last_move:
            return last
        for event in reversed(self.events.values()):
            if event.id == row.pointer.last_move:
                return event
        return last if last is not None and last.kind in MOVES else None

    # ---- order, selection, marks -----------------------------------------------------------------------------

    def touched(self) -> None:
        """A key was pressed."""
        self.last_key_at = self.clock()

    @property
    def frozen(self) -> bool:
        return self.last_key_at is not None and self.clock() - self.last_key_at < FREEZE_S

    def next_sort(self) -> None:
        """Sort the tenants by the next thing, at once; the selection stays on its row."""
        turns = list(Sort)
        self.sort = turns[(turns.index(self.sort) + 1) % len(turns)]
        self.arrange(force=True)

    def arrange(self, *, force: bool = False) -> bool:
        """Put every list in its order. Returns whether the list of the screen in front changed.

        A list of which nothing has changed that decides its order is not sorted again, except twice a minute, for
        rows that stop being recent.
        """
        for which, rows in ((Screen.TENANTS, self.tenants), (Screen.NODES, self.nodes)):
            if rows.news:
                rows.news = False
                self._arranging.due(which)
        changed = self._arranging.arrange(self.clock(), frozen=self.frozen and not force, every=force)
        return self.screen in changed

    def fetched(self, which: Screen) -> None:
        """A screen's rows have come from the hub."""
        self.fetches[which].at = self.clock()
        self.fetches[which].trouble = ""
        self._arranging.due(which)

    @property
    def listing(self) -> Listing[PointerKey] | Listing[str] | Listing[int]:
        """The list of the screen in front."""
        return self._arranging.lists[self.screen].listing

    def set_filter(self, filter_: RowFilter) -> None:
        """Filter the list in front, at once."""
        self.listing.filter = filter_
        self.arrange(force=True)

    def toggle_mark(self) -> None:
        key = self.tenant_list.selected
        if key is None:
            return
        if key in self.marks:
            self.marks.remove(key)
        else:
            self.marks.append(key)

    def toggle_marks(self) -> None:
        """Mark every row that is shown; when all of them are marked, unmark them."""
        shown = self.tenant_list.order
        marked, listed = set(self.marks), set(shown)
        if listed <= marked:
            self.marks = [key for key in self.marks if key not in listed]
        else:
            self.marks += [key for key in shown if key not in marked]

    @property
    def selected(self) -> BaseModel | None:
        """What the list in front has selected, as the hub sent it."""
        match self.screen:
            case Screen.TENANTS:
                return self.row
            case Screen.NODES:
                return self.nodes.get(self.node_list.selected or "")
            case Screen.JOBS:
                return self.jobs.get(self.job_list.selected or "")
            case Screen.EVENTS:
                return self.events.get(self.event_list.selected or 0)
            case Screen.GATES:
                gate = self.registry.gates.get(self.gate_list.selected or 0)
                return gate.record if gate is not None else None
            case Screen.ADAPTERS:
                return self.registry.adapters.get(self.adapter_list.selected or "")
            case Screen.DATA:
                entry = self.registry.data.get(self.data_list.selected or "")
                return entry.record if entry is not None else None

    @property
    def identity(self) -> str | None:
        """What names the selection of the list in front for a command: a release, a node, a job, an event, a digest."""
        if self.screen is Screen.TENANTS:
            return self.row.live.id if self.row is not None and self.row.live is not None else None
        if self.screen is Screen.NODES:
            return self.node_list.selected
        if self.screen is Screen.JOBS:
            return self.job_list.selected
        if self.screen is Screen.EVENTS:
            event = self.events.get(self.event_list.selected or 0)
            return event.id if event is not None else None
        if self.screen is Screen.GATES:
            gate = self.registry.gates.get(self.gate_list.selected or 0)
            return gate.result.release if gate is not None else None
        return self.adapter_list.selected if self.screen is Screen.ADAPTERS else self.data_list.selected

    # ---- own moves -------------------------------------------------------------------------------------------

    def sent(self, move: Move) -> OwnMove:
        """A move is about to be sent."""
        own = OwnMove(move, sent_at=self.clock(), sent_ms=self.hub_now_ms or int(time.time() * 1000))
        self.own.append(own)
        del self.own[:-200]
        return own

    def own_move(self, row: TenantRow) -> OwnMove | None:
        """This console's newest move of a pointer, if nothing else has moved it since."""
        for own in reversed(self.own):
            if own.move.row != row.key or own.phase in (Phase.REFUSED, Phase.NOT_SENT):
                continue
            if own.move.kind in (MoveKind.ANNOTATE, MoveKind.HOLD):
                continue  # they move nothing
            if own.phase in OPEN or (own.generation or 0) > row.pointer.generation:
                return own
            return own if own.event is not None and own.event.id == row.pointer.last_move else None
        return None

    @property
    def many_open(self) -> bool:
        """Whether a move of ours on many pointers may still happen without our knowing."""
        return any(not own.move.tenant and own.phase in OPEN for own in self.own)

    def is_settled(self, own: OwnMove) -> bool:
        """Whether nothing more is to come of a move of ours."""
        if own.phase in OPEN:
            return False
        if own.phase is Phase.PENDING:
            row = self.tenants.get(own.move.row)
            return row is None or "PREP" not in row.flags
        return all(self._is_settled(key, generation) for key, generation in own.moved.items())

    def _is_settled(self, key: PointerKey, generation: int) -> bool:
        row = self.tenants.get(key)
        if row is None or row.pointer.generation > generation:
            return True
        return row.pointer.generation == generation and row.settled

    @property
    def unsettled(self) -> list[OwnMove]:
        return [own for own in self.own if not self.is_settled(own)]
