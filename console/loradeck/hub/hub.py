"""The hub: the log in memory, and what follows from each event.

Everything here runs on one event loop. A move is decided by the rules on the folded log, committed in the
store's thread, folded, and put on the links of the nodes it concerns before anybody else is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from loradeck.artifacts import Blobs
from loradeck.hub.access.auth import Tokens
from loradeck.hub.fleet.gc_tuning import Heap
from loradeck.hub.fleet.link import PARTS, Beats, Link, Outbox, beat
from loradeck.hub.fleet.link_socket import text_frame
from loradeck.hub.fleet.move_progress import Observer
from loradeck.hub.fleet.node_tables import Steer
from loradeck.hub.fleet.nodes import Change, Fleet, Node
from loradeck.hub.fleet.pins import Pins
from loradeck.hub.fleet.recovery import BEHIND, EPOCH, Recovery
from loradeck.hub.fleet.request_counts import RequestCounts
from loradeck.hub.fleet.startup import SETTLING, Settling
from loradeck.hub.jobs import gates
from loradeck.hub.jobs.promotion import Promotions
from loradeck.hub.jobs.queue import Queue
from loradeck.hub.log.catalogue import Catalogue, view_of
from loradeck.hub.log.facts import Facts
from loradeck.hub.views import feed
from loradeck.hub.views.feed import Feeds
from loradeck.hub.views.metrics import Metrics
from loradeck.hub.views.rows import Rows
from loradeck.hub.views.traces import Traces
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.target import ways_back
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.link import HEARTBEAT_S, Ack, Bookmark, Hello, Report
from loradeck.schemas.log import GENESIS, MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import HubStatus, ReleaseView
from loradeck.schemas.tenant import TenantState
from loradeck.store.interface import Committed, Doc, LeaseLost, OutcomeUnknown, Registered, Store, StoreError

if TYPE_CHECKING:
    from loradeck.hub.log.store_thread import StoreThread

log = logging.getLogger("loradeck.hub")


VERSION = "0.1.0"
RECENT = 5000
"""Events kept in memory, for hellos and feeds that resume."""

FLUSH_S = 5.0
END_S = 5.0
"""How long writes that are under way have to end at a shutdown."""

TICK_S = 1.0


class Hub:
    """One hub over one store. `load` before anything is served, `run` while it is, `stop` at the end.

    Args:
        clock: monotonic seconds.
        now_ms: wall clock, milliseconds since 1970 UTC.
    """

    def __init__(
        self,
        store: StoreThread,
        blobs: Blobs,
        *,
        name: str,
        production: bool = False,
        sqlite: str = "",
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.store = store
        self.blobs = blobs
        self.name = name
        self.production = production
        self.clock = clock
        self.now_ms = now_ms
        self.started_ms = now_ms()
        self.moving = asyncio.Lock()
        """Held from the rules' decision until its event is folded: one move at a time."""
        self.links: set[Link] = set()
        self.outbox = Outbox()
        self.heap = Heap()
        self.metrics = Metrics()
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self._sqlite = sqlite
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lease_lost = False
        self._unresolved = False
        self._bookmark: tuple[tuple[int, int], bytes] | None = None
        self._beats = Beats(clock())
        self._kept: tuple[int, dict[str, str], Any] | None = None

    # ---- life ----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take the lease and read what the store holds. Blocking; before the event loop serves anybody."""
        self.store.now(lambda s: s.take_lease(self.name))
        snapshot = self.store.now(lambda s: s.snapshot())
        self.ledger = FoldedLog.of(
            epoch=snapshot.epoch,
            rev=snapshot.rev,
            hash=snapshot.hash,
            pointers=snapshot.pointers,
            tenants=snapshot.tenants,
        )
        self.recent.extend(self.store.now(lambda s: s.since(max(0, snapshot.rev - RECENT), RECENT)))
        self.last_moves: dict[str, Event] = self.store.now(self._last_moves)
        self.tokens = Tokens(self.store.now(lambda s: s.tokens()))
        self.catalogue = self.store.now(Catalogue.load)
        self.facts = self.store.now(Facts.load)
        kept = json.loads(self.store.now(lambda s: s.meta("nodes")) or "{}")
        self.fleet = Fleet(self.clock, [Node.of(name, node) for name, node in kept.items()])
        boots = json.loads(self.store.now(lambda s: s.meta("router_boots")) or "{}")
        self.counts = RequestCounts(self.store.now(lambda s: s.served()), boots, self.clock())
        self.traces = Traces(self)
        self.pins = Pins(self, json.loads(self.store.now(lambda s: s.meta("unpins")) or "[]"), self.recent)
        behind, recovered = self.store.now(lambda s: (s.meta(BEHIND), s.meta(EPOCH)))
        self.recovery = Recovery(self, behind=bool(behind), epoch=int(recovered or 0))
        linked = [node.name for node in self.fleet.nodes.values() if not node.was_lost]
        self.settling = Settling(linked, self.clock, self.status_changed)
        self.observer = Observer(self)
        self.steer = Steer(self.catalogue, lambda pointer: ways_back(pointer, self.facts.of(pointer.key)))
        self.promotions = Promotions(self)
        self.queue = Queue(self, self.store.now(lambda s: s.jobs()))
        self.rows = Rows(self)
        self.feeds = Feeds(self)
        for key in self.routes():
            self._refresh(key)
        self.observer.load()
        self._gauges()

    def _last_moves(self, store: Store) -> dict[str, Event]:
        """Event id -> event, of the last move of each pointer."""
        known = {e.id: e for e in self.recent}
        moves: dict[str, Event] = {}
        for pointer in self.ledger.pointers.values():
            if pointer.last_move is not None:
                event = known.get(pointer.last_move) or store.event(pointer.last_move)
                if event is not None:
                    moves[event.id] = event
        return moves

    def last_move(self, pointer: PointerState) -> Event | None:
        """The event that last moved a pointer."""
        return self.last_moves.get(pointer.last_move) if pointer.last_move else None

    async def run(self) -> None:
        """Heartbeats, ticks and flushes until cancelled."""
        await self.queue.fail_interrupted()
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(HEARTBEAT_S / PARTS, self._beat))
            group.create_task(_every(TICK_S, self._tick))
            group.create_task(_every(FLUSH_S, self.flush))
            group.create_task(_every(feed.TICK_S, self.feeds.tick))

    async def stop(self) -> None:
        """Write what is only in memory. The store is closed by its owner."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flush()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something whose outcome nobody waits for; a failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    async def _beat(self) -> None:
        beat(self, self._beats.due(self.clock()))

    async def _tick(self) -> None:
        lost = self.fleet.newly_lost()
        for node in lost:
            log.warning("node lost node=%s", node.name)
            self.node_changed(node)
        if lost:
            self.queue.lost({node.name for node in lost})
            self.promotions.nodes_changed()
        self.settling.tick()
        self.heap.tick(len(self.links))
        self.observer.tick()
        self.queue.forget_checkpoints()
        self.queue.assign()

    async def flush(self) -> None:
        """Write totals of traffic and the inventory of nodes. What cannot be written is kept for the next time."""
        deltas = self.counts.take_pending()
        kept = (self.fleet.kept_version, dict(self.counts.boots), self.pins.kept())
        changed = kept != self._kept
        # A fleet of thousands is put into words only when it has changed: it takes longer than a move may wait.
        nodes = json.dumps({n.name: n.kept() for n in self.fleet.nodes.values()}, sort_keys=True) if changed else ""
        if not changed and not deltas:
            return

        def write(store: Store) -> None:
            if deltas:
                store.add_served(deltas)
            if changed:
                store.set_meta("nodes", nodes)
                store.set_meta("router_boots", json.dumps(kept[1], sort_keys=True))
                store.set_meta("unpins", json.dumps(kept[2]))

        try:
            await self.store(write, background=True)
            self._kept = kept
        except StoreError as error:
            self.counts.give_back(deltas)
            log.error("flush failed code=%s %s", error.code, error)

    def _gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("rev", "Newest revision of the log.", lambda: self.ledger.rev)
        gauge("epoch", "Epoch of this hub's lease.", lambda: self.ledger.epoch)
        gauge("tenants", "Tenants, offboarded ones too.", lambda: len(self.ledger.tenants))
        gauge("nodes", "Nodes known.", lambda: len(self.fleet.nodes))
        gauge("nodes_linked", "Nodes with a link.", lambda: sum(1 for _ in self.fleet.linked()))
        gauge("nodes_lost", "Nodes past their TTL.", lambda: sum(n.lost for n in self.fleet.nodes.values()))
        gauge("feeds", "Consoles watching.", lambda: self.feeds.count)
        gauge("refusing", "1 while every move is refused.", lambda: self.refusing is not None)

    # ---- what is -------------------------------------------------------------------------------------------

    @property
    def refusing(self) -> str | None:
        """Problem code that every move gets now."""
        if self._lease_lost:
            return "not_active"
        if self.recovery.behind:
            return BEHIND
        return None if self.settling.over else SETTLING

    def check_moves(self) -> None:
        """Raises: Refused `log_behind`, `settling` or `not_active` while this hub must not move anything."""
        code = self.refusing
        if code == BEHIND:
            nodes = sorted(n.name for n in self.fleet.nodes.values() if n.behind)
            raise Refused(
                BEHIND,
                "this hub's log lacks moves that its nodes have seen",
                detail=f"nodes ahead of it: {', '.join(nodes) or 'none linked now'}",
                fix="loradeck hub recover, on the hub's host",
                context={"nodes": nodes},
            )
        if code == SETTLING:
            raise self.settling.refusal()
        if code is not None:
            raise Refused(code, "another hub has taken the lease", fix="use that hub's address")

    def status(self) -> HubStatus:
        ledger = self.ledger
        return HubStatus(
            hub=self.name,
            production=self.production,
            version=VERSION,
            epoch=ledger.epoch,
            rev=ledger.rev,
            hash=ledger.hash,
            at_ms=self.now_ms(),
            started_ms=self.started_ms,
            refusing=self.refusing,
            sqlite=self._sqlite,
            seq=self.feeds.seq,
        )

    def bookmark(self) -> bytes:
        """The frame of the heartbeat to nodes."""
        at = (self.ledger.epoch, self.ledger.rev)
        if self._bookmark is None or self._bookmark[0] != at:
            text = Bookmark(epoch=at[0], rev=at[1], hash=self.ledger.hash).model_dump_json()
            self._bookmark = (at, text_frame(text))
        return self._bookmark[1]

    def routes(self) -> list[PointerKey]:
        """Every (tenant, route), sorted."""
        keys = {(t.name, route) for t in self.ledger.tenants.values() for route in t.routes}
        return sorted(keys | self.ledger.pointers.keys())

    def is_listed(self, key: PointerKey) -> bool:
        """Whether consoles list a pointer: not those of tenants that are gone."""
        return key in self.steer.entries and not self.ledger.tenants[key[0]].offboarded

    def tenant(self, name: str) -> TenantState:
        """Raises: Refused `unknown_tenant`."""
        tenant = self.ledger.tenants.get(name)
        if tenant is None:
            raise Refused(
                "unknown_tenant", f"there is no tenant {name!r}", fix="loradeck tenant ls", context={"tenant": name}
            )
        return tenant

    def route(self, tenant: str, route: str) -> tuple[TenantState, RouteConfig, PointerState]:
        """A pointer with its tenant and settings.

        Raises: Refused `unknown_tenant` or `unknown_route`.
        """
        state = self.tenant(tenant)
        key = (tenant, route)
        if route not in state.routes and key not in self.ledger.pointers:
            raise Refused(
                "unknown_route",
                f"{tenant} has no route {route!r}",
                detail=f"it has: {', '.join(sorted(state.routes)) or 'none'}",
                fix=f"loradeck route set {tenant} {route}",
            )
        pointer = self.ledger.pointers.get(key) or PointerState(tenant=tenant, route=route)
        return state, self.config(key), pointer

    def config(self, key: PointerKey) -> RouteConfig:
        tenant = self.ledger.tenants.get(key[0])
        return tenant.routes.get(key[1], _DEFAULT) if tenant else _DEFAULT

    def view(self, tenant: str, release_id: str) -> ReleaseView:
        """A release as people recognise it; base alone also before anything has named it."""
        if release_id not in self.catalogue.releases:
            found = self.catalogue.release(release_id, tenant)
            if found is not None:
                return view_of(found, self.catalogue.base_label(found.base))
        return self.catalogue.view(release_id)

    def called(self, release: str | None) -> str:
        """A release as people name it: 'v3 (b81e07)'."""
        label = self.catalogue.view(release).label if release is not None else short(release)
        return label if label == short(release) else f"{label} ({short(release)})"

    async def knows(self, rev: int, hash_: str) -> bool:
        """Whether this log has the event that a node last saw."""
        if rev == 0:
            return hash_ == GENESIS
        if rev >= self.ledger.rev:
            return rev == self.ledger.rev and hash_ == self.ledger.hash
        first = self.recent[0].rev if self.recent else self.ledger.rev + 1
        if rev >= first:
            return self.recent[rev - first].hash == hash_
        return await self.store(lambda s: s.has_hash(rev, hash_))

    # ---- writing -------------------------------------------------------------------------------------------

    async def commit(self, drafts: Sequence[Draft], key: str) -> Committed:
        """Commit and fold. The caller holds `moving`.

        Raises: StoreError; after OutcomeUnknown the store was reopened, and what turned out to be durable is
        folded and returned as committed.
        """
        began = self.clock()
        try:
            if self._unresolved:
                await self._catch_up()
            committed = await self.store(lambda s: s.commit(drafts, key=key))
        except OutcomeUnknown:
            return await self._resolve(key)
        except LeaseLost:
            self._lease_lost = True
            self.status_changed()
            raise
        self.metrics.commit.observe(self.clock() - began)
        if not committed.replayed:
            self._fold(committed.events)
        return committed

    async def _catch_up(self) -> None:
        """Fold what is durable and not yet folded, after a commit whose outcome was not known."""
        while newer := await self.store(lambda s: s.since(self.ledger.rev)):
            self._fold(newer)
        self.ledger.epoch = (await self.store(lambda s: s.snapshot())).epoch
        self._unresolved = False

    async def adopt(self, drafts: Sequence[Draft], *, epoch_above: int, key: str) -> Committed:
        """`recover`: as `commit`, with an epoch above all that was seen."""
        try:
            committed = await self.store(lambda s: s.adopt(drafts, epoch_above=epoch_above, key=key))
        except OutcomeUnknown:
            return await self._resolve(key)
        await self._catch_up()
        return committed

    async def _resolve(self, key: str) -> Committed:
        """A commit's answer was lost and the store was opened again: say what is there.

        Raises: OutcomeUnknown when the key is not there, or the store still cannot be read.
        """
        self._unresolved = True
        await self._catch_up()
        found = await self.store(lambda s: s.lookup(key))
        if found is None:
            raise OutcomeUnknown("the store failed at the commit, and the key is not in the log now")
        return found

    def _fold(self, events: Sequence[Event]) -> None:
        """Everything that follows from new events, the nodes first."""
        touched: dict[PointerKey, None] = {}
        moved: list[tuple[PointerKey, PointerState | None, Event]] = []
        routed: list[PointerKey] = []
        for event in events:
            keys = self._keys_of(event)
            before = self.ledger.pointers.get(keys[0]) if keys else None
            self.ledger.apply(event)
            self.recent.append(event)
            self.metrics.events.labels(event.kind.value).inc()
            touched.update(dict.fromkeys(self._keys_of(event)))
            if event.kind in MOVES and event.pointer is not None:
                if before is not None and before.last_move is not None:
                    self.last_moves.pop(before.last_move, None)
                self.last_moves[event.id] = event
                moved.append((event.pointer.key, before, event))
            elif event.kind is EventKind.UNPIN:
                self.pins.ended(event)
            elif event.kind is EventKind.ROUTE:
                routed += keys
        self.steer.forget_messages()
        self.kick([key for key in touched if self._refresh(key)])
        for key, before, event in moved:
            self.observer.moved(key, before, event)
        for key in routed:
            self.observer.settings_changed(key)
        self.feeds.events(events)
        self.feeds.now(touched)

    def _keys_of(self, event: Event) -> list[PointerKey]:
        if event.route is not None:
            return [(event.tenant, event.route)]
        tenant = self.ledger.tenants.get(event.tenant)
        return [(event.tenant, route) for route in tenant.routes] if tenant else []

    def _refresh(self, key: PointerKey) -> bool:
        tenant = self.ledger.tenants[key[0]]
        preparing = self.promotions.preparing(key)
        pointer = self.ledger.pointers.get(key) or PointerState(tenant=key[0], route=key[1])
        last = self.last_move(pointer)
        return self.steer.refresh(pointer, tenant, preparing, last.from_release if last else None)

    def refresh(self, keys: Iterable[PointerKey]) -> None:
        """Something beside the log changed what is wanted of the nodes: a prepare, a fact."""
        changed = [key for key in keys if key[0] in self.ledger.tenants and self._refresh(key)]
        self.kick(changed)
        self.feeds.now(changed)

    def kick(self, keys: Sequence[PointerKey]) -> None:
        """Put changed entries on the links of the nodes they concern."""
        if not keys:
            return
        concerned: dict[int, list[PointerKey]] = {}
        for link in self.links:
            if not link.steered:
                continue
            table = link.table
            mine = concerned.get(id(table))
            if mine is None:
                mine = concerned[id(table)] = [k for k in keys if k in table.members]
            if mine:
                link.put(mine)

    async def register(
        self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str
    ) -> Registered:
        document = await self.store(lambda s: s.register(kind, digest, body, tenant=tenant, by=by))
        self.catalogue.add(document)
        return document

    async def use(self, tenant: str, release_id: str, by: str) -> None:
        """Make sure that a release which a move is about to name is registered: base alone is, at first use.

        Raises: Refused `unknown_release`.
        """
        release = self.catalogue.known(tenant, release_id)
        if release_id not in self.catalogue.releases:
            body = release.model_dump(mode="json")
            await self.register(Doc.RELEASE, release_id, body, tenant=tenant, by=by)

    async def attest(self, attestation: Attestation) -> Attestation:
        """Write an attestation, believe it, and show what follows from it."""
        written = await self.store(lambda s: s.attest(attestation))
        self._believe(written)
        return written

    async def attest_all(self, attestations: Sequence[Attestation]) -> None:
        """Stores several attestations in one transaction, and adds them to the known facts."""
        for written in await self.store(lambda s: s.attest_all(attestations)):
            self._believe(written)

    async def attest_seen(self, attestations: Sequence[Attestation]) -> None:
        """Stores attestations of the hub's own observations in the background, behind moves, and adds them to the known
        facts.
        """
        for written in await self.store(lambda s: s.attest_all(attestations), background=True):
            self._believe(written)

    def _believe(self, written: Attestation) -> None:
        self.facts.add(written)
        if written.route is not None:
            keys = [(written.tenant, written.route)]
        else:
            keys = [key for key in self.ledger.pointers if key[0] == written.tenant]
        if written.kind in MOVES_THE_WAY_BACK:
            self.refresh(keys)
            gates.stage_passed(self, written)
        self.feeds.now(keys)

    # ---- what nodes say ------------------------------------------------------------------------------------

    def fleet_hello(self, hello: Hello, link: Link) -> Node:
        """A node has linked; an older link of it is closed."""
        known = self.fleet.nodes.get(hello.node)
        old, labels = (known.link, known.labels) if known else (None, hello.labels)
        node = self.fleet.hello(hello, link)
        if labels != hello.labels:
            # What was placed there under its old labels must not be served on, unseen, for ever.
            self.steer.withdraw(self.steer.table(labels), self.steer.table(hello.labels))
        if old is not None and old is not link:
            log.warning("link replaced node=%s", node.name)
            old.replaced()
        log.info("link up node=%s version=%s rev=%d epoch=%d", node.name, hello.version, hello.rev, hello.epoch)
        self.node_changed(node)
        return node

    def unlinked(self, node: Node, link: Link) -> None:
        if self.fleet.unlinked(node, link):
            log.info("link down node=%s", node.name)
            self.node_changed(node)

    def node_changed(self, node: Node) -> None:
        """Rows of a node and of the pointers placed on it."""
        self.feeds.node(node.name)
        keys = self.steer.table(node.labels).keys
        self.observer.look_again(keys)
        self.feeds.soon_for_all(keys)

    def log_is_behind(self, node: Node, hello: Hello) -> None:
        self.recovery.found_behind(node, hello)
        self.feeds.node(node.name)

    def acknowledged(self, ack: Ack) -> None:
        """Counts a replica's acknowledgement. One of another generation than the newest changes nothing."""
        self.observer.acknowledged(ack)

    def reported(self, node: Node, report: Report) -> None:
        """Telemetry and counters of a node."""
        change = self.fleet.report(node, report)
        self.pins.heard(node)
        changed = self.counts.report(node.name, report.router_boot, report.traffic, self.clock())
        known = [key for key in changed if key in self.steer.entries]
        for key in known:
            self.observer.traffic(key)
        if change is Change.NOTHING:
            self.feeds.node_figures(node.name)
        else:
            self.feeds.node(node.name)
        self.feeds.soon(known)
        if change is Change.PLACED:
            self.node_changed(node)
            self.promotions.nodes_changed()
        elif change is Change.SHOWN:
            self.feeds.soon_for_all(self.steer.table(node.labels).keys)

    def status_changed(self) -> None:
        self.feeds.status()


async def _every(seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something again and again. A failure is logged and costs one turn, not the hub."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            log.exception("%s failed", work.__qualname__)


_DEFAULT = RouteConfig()

MOVES_THE_WAY_BACK = frozenset(
    {AttestationKind.ATTESTED, AttestationKind.SOAKED, AttestationKind.BREACHED, AttestationKind.REVOCATION}
)
"""What changes where R goes, and so which releases are worth a slot."""
