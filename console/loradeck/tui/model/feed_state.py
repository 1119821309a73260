"""The hub's state as the feed brings it, message by message, and its age. Knows no toolkit and sends nothing.

Times are seconds of one monotonic clock, given in, so that tests can turn it. The hub's wall clock is
followed by its status messages and counted on by the monotonic clock in between.
"""

import sys
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loradeck.client.state_list import StateRead
from loradeck.client.terminal_text import clean
from loradeck.rules.moves.chain import ChainCheck
from loradeck.schemas import feed
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import RelatedReleases
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import MOVES, Event
from loradeck.schemas.state import HubStatus, Me, NodeRow, ReleaseView, TenantRow
from loradeck.tui.keys.action import Screen
from loradeck.tui.model.hardware_history import History
from loradeck.tui.model.packed_rows import NodeRows, TenantRows, node_rows, tenant_rows
from loradeck.tui.model.registry import Fetch, Registry
from loradeck.tui.text.spans import clock, dated, release

STALE_S = 4.0
"""Seconds without a message until figures are stale; the hub sends one at least every two seconds."""

DAY_S = 24 * 3600.0

EVENTS_KEPT = 2000

STEP = 40
"""Rows loaded between two turns of the event loop: some milliseconds."""

VIEWS_KEPT = 4000
"""Releases whose names are remembered; those seen last."""

_SHOWN = tuple(ReleaseView.model_fields)
_ID = _SHOWN.index("id")
_SHARED = frozenset({"label", "base", "base_label"})
"""Fields whose strings many releases have in common."""

FETCHED = frozenset({Screen.GATES, Screen.ADAPTERS, Screen.DATA, Screen.CAPACITY, Screen.ML, Screen.CAMPAIGNS})
"""Screens whose rows the feed does not bring."""


class Link(StrEnum):
    """The state of the link between the console and its hub. Each looks different on the screen."""

    CONNECTING = "connecting"  # nothing was listed yet
    LIVE = "live"
    STALE = "stale"  # connected, but silent for longer than STALE_S
    LOST = "lost"  # not connected; what is shown is from before


def _key(row: TenantRow) -> PointerKey:
    """A row's key, of strings that all rows share."""
    return sys.intern(row.tenant), sys.intern(row.route)


@dataclass(frozen=True)
class Changed:
    """What a feed message changed that has to be looked at again at once."""

    tenants: frozenset[PointerKey] = frozenset()
    events: bool = False


@dataclass
class FeedState:
    """The hub's last state, from a full list and the messages since."""

    clock: Callable[[], float] = time.monotonic
    status: HubStatus | None = None
    me: Me | None = None
    tenants: TenantRows = field(default_factory=tenant_rows)
    nodes: NodeRows = field(default_factory=node_rows)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    """By rev, oldest first."""

    older: dict[int, Event] = field(default_factory=dict)
    """Events of the pointer whose events were opened, as fetched; they reach back further than those of the feed."""

    history: History = field(default_factory=History)
    chain: ChainCheck = field(default_factory=ChainCheck)
    registry: Registry = field(default_factory=Registry)
    fetches: dict[Screen, Fetch] = field(default_factory=lambda: {which: Fetch() for which in FETCHED})
    related: dict[PointerKey, RelatedReleases] = field(default_factory=dict)
    """What other live releases share with a row's, of rows that were looked at."""

    trends: dict[PointerKey, RouteHistory] = field(default_factory=dict)
    pasts: dict[PointerKey, RouteHistory] = field(default_factory=dict)
    """Requests by the minute of the row that is looked at."""

    received: dict[Hashable, float] = field(default_factory=dict)
    """Key of a pointer or name of a node -> when its row last came since the whole was listed, monotonic seconds."""

    asked: dict[Hashable, float] | None = None
    """Row or node whose figures the hub was asked for -> since when they count as new; None: all were asked for."""

    heard_at: float | None = None
    connected: bool = False
    link_lost_at: float | None = None
    link_trouble: str = ""
    _status_at: float = 0.0
    _listed_at: float = 0.0
    _bases: dict[str, str] = field(default_factory=dict)
    _views: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Release -> the fields of its view: as an object it would take four times as much."""

    _owners: dict[str, str] = field(default_factory=dict)

    # ---- the feed ------------------------------------------------------------------------------------------

    def loading(self, state: StateRead) -> Iterator[None]:
        """Load a full list, which replaces all state from before with the last step.

        A step takes a few milliseconds, so that keys come through.
        """
        tenants, nodes = tenant_rows(), node_rows()
        named = {event.tenant for event in state.events}
        for n, row in enumerate(state.tenants):
            tenants[_key(row)] = row
            if row.tenant in named:
                self._learn(row)
            self._learn_bases(row)
            if n % STEP == STEP - 1:
                yield
        for n, node in enumerate(state.nodes):
            nodes[node.node] = node
            self.history.record(node, self.clock())
            if n % STEP == STEP - 1:
                yield
        now = self._heard()
        self.me = state.me
        tenants.near, nodes.near = self.tenants.near, self.nodes.near
        self.tenants, self.nodes = tenants, nodes
        self.jobs = {job.id: job for job in state.jobs}
        self.received = {}
        self._listed_at = now
        self._add_events(state.events, replace=True)
        self._set_status(state.status, now)
        self.history.keep(self.nodes)

    def apply(self, message: feed.FeedMessage) -> Changed:
        """Apply one message of the feed, in the order they came."""
        now = self._heard()
        match message:
            case feed.FeedTenants():
                for row in message.rows:
                    self.tenants[_key(row)] = row
                    self.received[_key(row)] = now
                    self._learn(row)
                gone = {(tenant, route) for tenant, route in message.gone}
                for key in gone:
                    self.tenants.pop(key, None)
                    self.received.pop(key, None)
                return Changed(frozenset({row.key for row in message.rows} | gone))
            case feed.FeedNodes():
                for node in message.rows:
                    self.nodes[node.node] = node
                    self.received[node.node] = now
                    self._learn_node(node)
                for name in message.gone:
                    self.nodes.pop(name, None)
                    self.received.pop(name, None)
            case feed.FeedJobs():
                for job in message.rows:
                    self.jobs[job.id] = job
            case feed.FeedEvents():
                self._add_events(message.events)
                return Changed(events=True)
            case feed.FeedStatus():
                self._set_status(message.status, now)
            case feed.FeedReset():
                pass
        return Changed()

    def link_up(self) -> None:
        """The feed is connected again."""
        self.connected = True
        self.link_lost_at = None
        self.link_trouble = ""

    def link_down(self, why: str) -> None:
        """The feed broke off. Its rows stay, and their ages count on."""
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
        self.history.record(node, self.clock())
        for replica in node.replicas:
            self._remember(replica.loaded)

    @property
    def listed_events(self) -> Mapping[int, Event]:
        """The events of the feed, and those that were fetched for one pointer."""
        return ChainMap(self.events, self.older)

    # ---- ages and the link ---------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        """The link to the hub now."""
        if self.status is None:
            return Link.CONNECTING
        if not self.connected:
            return Link.LOST
        return Link.STALE if self.silent_s > STALE_S else Link.LIVE

    @property
    def silent_s(self) -> float:
        """Seconds since the hub's last message."""
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

    def since_received(self, key: Hashable) -> float:
        """Seconds since a row was received, to be added to the ages in it. `key`: a pointer's key or a node's name."""
        if self.status is None:
            return 0.0
        return self.clock() - self.received.get(key, self._listed_at)

    def ask_for(self, rows: Collection[PointerKey], nodes: Collection[str]) -> None:
        """The hub has been asked for the figures of these rows and nodes, and of no others."""
        now = self.clock()
        # What came within the last seconds is as new as what a live row shows.
        self.asked = {key: (self.asked or {}).get(key, now - STALE_S) for key in (*rows, *nodes)}
        self.tenants.near = self.nodes.near = self.asked

    def is_fresh(self, key: Hashable) -> bool:
        """Tells whether a row's or a node's figures are of now; those that nobody looked at may be hours old."""
        if self.asked is None:
            return True
        since = self.asked.get(key)
        return since is not None and self.received.get(key, self._listed_at) >= since

    def age_of(self, at_ms: int | None) -> float | None:
        """Seconds since a moment of the hub's clock."""
        now = self.hub_now_ms
        return None if at_ms is None or now is None else max(0.0, (now - at_ms) / 1000)

    # ---- names ---------------------------------------------------------------------------------------------

    def view(self, digest: str | None) -> ReleaseView | None:
        """A release by its id, as far as any row has shown it."""
        known = self._views.get(digest) if digest else None
        return ReleaseView.model_construct(**dict(zip(_SHOWN, known, strict=True))) if known is not None else None

    def learn(self, tenant: str, views: Iterable[ReleaseView]) -> None:
        """Remember the labels of a tenant's releases."""
        found = tuple(views)
        self._owners.update((view.id, sys.intern(tenant)) for view in found)
        self._remember(found)

    def _remember(self, views: Iterable[ReleaseView]) -> None:
        """Keeps the newest releases' names, since those of a fleet that moves all day would grow without end."""
        for view in views:
            shown = ((name, getattr(view, name)) for name in _SHOWN)
            known = tuple(sys.intern(value) if name in _SHARED else value for name, value in shown)
            before = self._views.pop(view.id, None)
            held = before if before == known else known
            self._views[held[_ID]] = held  # by the string that is in it
        while len(self._views) > VIEWS_KEPT:
            oldest = next(iter(self._views))
            del self._views[oldest]
            self._owners.pop(oldest, None)

    def base_label(self, base: str) -> str | None:
        """The label of a base, as far as any row has shown it: 'B1'."""
        return self._bases.get(base)

    def unnamed(self, events: Iterable[Event]) -> dict[str, str]:
        """Releases that events name and no row has described, in the order of the events, with their tenants."""
        return {
            digest: event.tenant
            for event in events
            for digest in event.path
            if digest is not None and digest not in self._views
        }

    def newest_moves(self, row: TenantRow) -> list[Event]:
        """The last two moves of a row's tenant, and after them what else moved last in the fleet: four in all."""
        own: list[Event] = []
        others: list[Event] = []
        for event in reversed(self.events.values()):
            if event.kind in MOVES:
                (own if event.tenant == row.tenant else others).append(event)
            if len(own) >= 2 and len(others) >= 3:
                break
        return [*own[:2], *others[: 4 - len(own[:2])]]

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
