"""A hub and its nodes in one thread: their own code, over engines and connections that exist in name only.

Of the hub there are its fold of the log, tables, withdrawals, links, counts, and the placement of pools. Of a node
there are its router's table on the disk, switch, admission and cold queue, and its agent's table and acknowledgements.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fleets.in_process.log import OPERATOR, RELEASER, SimulatedLog, digest, ref

from loradeck.hub.access.auth import Caller as LinkCaller
from loradeck.hub.automation.pooled_routes import PooledRoutes
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.nodes import Node as KnownNode
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.all_links import Links
from loradeck.hub.links.node_events import NodeEvents
from loradeck.hub.links.node_link import Link, Uplink
from loradeck.hub.links.table_sender import TableSender
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.log import Published
from loradeck.hub.log.takeover import Move
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.target_lookup import Prepares
from loradeck.rules.moves import forward, rollbacks, tenants
from loradeck.rules.moves.rollback_target import NO_FACTS, PointerFacts, rollback_target
from loradeck.rules.moves.tenants import set_pool
from loradeck.rules.serving import residency
from loradeck.schemas.ids import Fence, Name, PointerKey, Role
from loradeck.schemas.link import Ack, Bookmark, Desired, Heartbeat, Hello, Replica, Report, Welcome, down_adapter
from loradeck.schemas.log import MOVES, Draft, Event, PointerState
from loradeck.schemas.moves import PromoteRequest, RollbackRequest
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.schemas.replica_state import AckLevel, AckState, EngineState
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.table import ColdQueueLimits, ReleaseRef, RouteResidency, TableEntry
from loradeck.schemas.telemetry import NvmlState
from loradeck_agent.router.admission import Admission, Admitted, Caller, Refusal
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.fences import fence_text
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.switch import Switch
from loradeck_agent.router.table import Table
from loradeck_agent.router.wire import Acks, ColdAsk, EngineAt, RouterState, TableUpdate, WantedLoads, ack_about
from loradeck_agent.serving.router_sync import RouterSync
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

BASE = digest("B1")
POOL = "main"
KEYS: tuple[PointerKey, ...] = tuple((name, "production") for name in ("acme", "bolt", "cedar", "dune", "elm"))
LABELS = ("v1", "v2", "v3", "v4")
REFS = {one.id: one for tenant, _ in KEYS for label in LABELS for one in (ref(label, tenant),)}
SLOTS = 2
LIMITS = ColdQueueLimits(waiting=3, tenant=2, loads=2, seconds=20)


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock goes on only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(selectors.SelectSelector())

    def time(self) -> float:
        return self.now

    def finish(self, work: Coroutine[Any, Any, Any] | None = None) -> Any:
        """Does a piece of work, and whatever follows from it at once."""
        return self.run_until_complete(self._settled(work))

    async def _settled(self, work: Coroutine[Any, Any, Any] | None) -> Any:
        found = await work if work is not None else None
        await self.settle()
        return found

    async def settle(self) -> None:
        """Returns once nothing is left that could go on without time passing."""
        await asyncio.sleep(0)
        ready: Any = vars(self)["_ready"]
        while ready:  # noqa: ASYNC110
            await asyncio.sleep(0)


class Nothing:
    """Parts of a hub that have no say in where callers are answered."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given, **named: None


# ---- the hub -----------------------------------------------------------------------------------------------------


class HubLog:
    """The log of one hub after another, as the other parts use it."""

    def __init__(self, kept: SimulatedLog) -> None:
        self.kept, self.state, self.moving = kept, kept.ledger, asyncio.Lock()
        self.state.epoch = kept.epoch
        self.followers: list[Callable[[Published], None]] = []
        self.signing = SimpleNamespace(log="", incarnations={}, keys=())
        self.position = lambda: None

    def last_rev(self, key: PointerKey) -> int:
        of_key = [e.rev for e in self.kept.events if (e.tenant, e.route) in (key, (key[0], None))]
        return max(of_key, default=0)

    def last_move(self, pointer: PointerState) -> Event | None:
        return next((event for event in reversed(self.kept.events) if event.id == pointer.last_move), None)

    async def commit(self, drafts: Sequence[Draft], key: str = "") -> None:
        before = dict(self.state.pointers)
        events = self.kept.commit(*drafts)
        touched = {key: None for event in events for key in self.state.pointers_of(event)}
        moved = [e for e in events if e.kind in MOVES and e.pointer is not None]
        moves = [Move(e.pointer.key, before.get(e.pointer.key), e) for e in moved if e.pointer is not None]
        for follower in self.followers:
            follower(Published(events, tuple(touched), moves))


class Wire:
    """The hub's end of a connection: what it writes, the node reads in this order."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.frames: deque[bytes] = deque()

    def write_frame(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True


@dataclass(eq=False)
class Greets:
    """Greets nodes of which none has seen what the log lacks."""

    events: NodeEvents

    async def hello(self, hello: Hello, link: Link, bound: Any = None) -> tuple[KnownNode, None]:
        return self.events.linked(hello, link, bound), None

    def greeted(self, node: KnownNode, hello: Hello, link: Link, refuse: None) -> None:
        link.steer()


class Hub:
    """One life of the hub."""

    def __init__(self, loop: Loop, kept: SimulatedLog, before: Hub | None = None) -> None:
        nothing: Any = Nothing()
        nodes, withdrawals = (), []
        if before is not None:
            nodes = tuple(KnownNode.of(name, node.kept()) for name, node in before.fleet.nodes.items())
            withdrawals = [one for held in before.withdrawals._by_key.values() for one in held.values()]
        self.log: Any = HubLog(kept)
        self.fleet = Fleet(loop.time, nodes)
        catalogue = Catalogue()
        catalogue.releases = {one.id: one.release for one in REFS.values()}
        facts: Any = SimpleNamespace(of=lambda key: NO_FACTS, deprecated={}, erased_ms={})
        self.tables = NodeTables(catalogue, facts, self.log.signing)
        self.withdrawals = Withdrawals(self.log.state, self.fleet, withdrawals)
        self.replicas = PlacedReplicas(self.log.state, self.fleet, self.tables, self.withdrawals)
        self.tables.elsewhere = lambda key: tuple(sorted(self.replicas.ready(key)))
        self.pools = Pools(self.log.state, self.fleet, catalogue)
        self.events = NodeEvents(
            fleet=self.fleet,
            tables=self.tables,
            withdrawals=self.withdrawals,
            counts=nothing,
            votes=nothing,
            arms=nothing,
            deprecated=nothing,
            progress=nothing,
            changes=nothing,
        )
        challenges: Any = SimpleNamespace(enter=self._enters)
        self.links = Links(self.fleet, nothing, challenges)
        self.sender = TableSender(
            log=self.log,
            catalogue=catalogue,
            tables=self.tables,
            withdrawals=self.withdrawals,
            fleet=self.fleet,
            links=self.links,
            prepares=Prepares(),
            changes=nothing,
        )
        self.sender.load()
        allowed: Any = SimpleNamespace(forward=True, check_event=lambda kind, key: None)
        self.tasks: list[asyncio.Task[None]] = []
        background: Any = SimpleNamespace(spawn=lambda work: self.tasks.append(loop.create_task(work)))
        clock: Any = SimpleNamespace(now_ms=lambda: kept.clock_ms)
        self.placement = PooledRoutes(
            log=self.log,
            fleet=self.fleet,
            tables=self.tables,
            pools=self.pools,
            replicas=self.replicas,
            usual=nothing,
            allowed=allowed,
            background=background,
            clock=clock,
        )
        self.log.followers = [self.sender.committed, self.placement.committed]
        handlers: Any = {Ack: self.replicas.acknowledge, Report: self.fleet.report}
        greets: Any = Greets(self.events)
        self.uplink = Uplink(
            log=self.log,
            tables=self.tables,
            withdrawals=self.withdrawals,
            fleet=self.fleet,
            greeting=greets,
            challenges=challenges,
            gateways=nothing,
            handlers=handlers,
            outbox=self.links.outbox,
        )

    @staticmethod
    async def _enters(*given: Any) -> bool:
        return True

    def entry(self, key: PointerKey) -> TableEntry:
        return self.tables.entries[key]

    def config(self, key: PointerKey, **settings: Any) -> Draft:
        now = self.log.state.config(key)
        return tenants.set_route(
            self.log.state.tenants[key[0]],
            key[1],
            now.model_copy(update=settings),
            RELEASER,
            pointer=self.log.state.pointers.get(key),
        )

    def promote(self, key: PointerKey, release: ReleaseRef) -> Draft:
        pointer = self.log.state.pointer(key)
        request = PromoteRequest(
            release=release.id, expected_generation=pointer.generation, idempotency_key="promote-key"
        )
        return forward.promote(pointer, request, RELEASER, attested=REFS)

    def rollback(self, key: PointerKey) -> Draft | None:
        """What R does; None: there is nowhere to go."""
        pointer = self.log.state.pointer(key)
        if not pointer.beneath:
            return None
        facts = PointerFacts(attested=tuple(REFS), soaked=frozenset(REFS))
        target = rollback_target(pointer, facts, fallback_allowed=False, live_is_base=False, pending_prepare=None)
        if target.release is None:
            return None
        request = RollbackRequest(
            expected_generation=pointer.generation, to=target.release, confirmed=True, idempotency_key="rollback-key"
        )
        draft = rollbacks.rollback(pointer, request, target, OPERATOR)
        assert isinstance(draft, Draft)
        return draft

    async def second(self) -> None:
        """What it does each second: heartbeats both ways, then what follows from who was not heard."""
        for link in list(self.links):
            assert not link.closing, "the hub could not write to it"
            link._take(Heartbeat())
            link.put_bookmark()
        self.links.outbox.flush()
        for task in self.tasks:
            task.result()
        self.tasks.clear()
        self.events.tick()
        self.placement.tick()


def founded(loop: Loop) -> Hub:
    """A hub whose log has a pool, and a route of each tenant in it with its first release."""
    hub, kept = Hub(loop, SimulatedLog()), []
    kept.append(set_pool({}, POOL, PoolConfig(), RELEASER, reason=""))
    kept += [tenants.create({}, tenant, RELEASER) for tenant, _ in KEYS]
    loop.finish(hub.log.commit(kept))
    for key in KEYS:
        pooled = RouteConfig(pool=Pooled(pool=POOL, replicas=2), residency=RouteResidency.ON_DEMAND, fallback=False)
        loop.finish(
            hub.log.commit([tenants.set_route(hub.log.state.tenants[key[0]], key[1], pooled, RELEASER, pointer=None)])
        )
        loop.finish(hub.log.commit([hub.promote(key, ref("v1", key[0]))]))
    return hub


# ---- a node ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Calls:
    """The router's control calls, as the agent makes them."""

    node: Node

    async def state(self) -> RouterState:
        held = self.node.table.contents
        return RouterState(
            pid=1,
            boot="",
            epoch=held.cursor.epoch,
            rev=held.cursor.rev,
            hash=held.cursor.hash,
            entries=tuple(held.entries.values()),
            in_force=tuple(held.in_force.values()),
            features=tuple(sorted(SUPPORTED)),
            protocol=PROTOCOL,
        )

    async def table(self, update: TableUpdate) -> Acks:
        self.node.called += [update] if update.entries else []
        return self.node.give(update)


@dataclass(eq=False)
class Node:
    """A host: its disk outlives its processes. `loaded`: what its engine holds."""

    loop: Loop
    name: Name
    disk: Path
    up: bool = False
    loaded: list[ReleaseRef] = field(default_factory=list)
    engine: int = 0
    agent: int = 0
    link: Link | None = None
    wire: Wire = field(default_factory=Wire)
    sent: deque[str] = field(default_factory=deque)
    """Messages to the hub that are under way."""
    read: list[Desired] = field(default_factory=list)
    called: list[TableUpdate] = field(default_factory=list)
    """Every directive that came to its agent, and every call of the table that its router got."""
    promised: dict[PointerKey, tuple[Fence, str | None]] = field(default_factory=dict)
    """What its router has acknowledged last as flipped to; None: withdrawn."""
    requests: set[asyncio.Task[Any]] = field(default_factory=set)
    waiting: dict[asyncio.Task[Any], tuple[PointerKey, float]] = field(default_factory=dict)
    """Requests in its cold queue, with the time since when."""
    answers: list[Admitted] = field(default_factory=list)

    # ---- its processes -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Router, agent and engine start; the router serves by the table on its disk before anybody tells it more."""
        self.up, self.engine = True, self.engine + 1
        self.table = Table(self.disk)
        self.cold = ColdQueue(LIMITS)
        self.admission = Admission(HubSilence(self.table), Stats(), self.cold)
        self.replicas = Replicas()
        self.switch = Switch(self.table, self.admission, self.replicas)
        self.switch.start()
        await self.start_agent()

    async def start_agent(self) -> None:
        """An agent finds the router as it is."""
        self.agent += 1
        self.sent.clear()
        self.board = AckBoard(self.send, frozenset({self.name}), self._with_level)
        self.desired = DesiredTable()
        unused: Any = SimpleNamespace(flipped=lambda ack: None)
        calls: Any = Calls(self)
        engines = SimpleNamespace(push=self.push_engines)
        reconciler: Any = SimpleNamespace(router_up=lambda up: None, at_router=engines)
        self.sync = RouterSync(
            folder=unused,
            router=calls,
            table=self.desired,
            acks=self.board,
            prover=unused,
            reconciler=reconciler,
            send=self.send,
            changed=lambda: None,
        )
        await self.sync.up(f"router-{self.engine}")

    async def die(self) -> None:
        self.up, self.loaded, self.link = False, [], None
        self.sent.clear()
        for task in self.requests:
            task.cancel()
        await asyncio.sleep(0)
        for at in self.answers:
            self.admission.left(at, 200, "answered")
        self.answers.clear()
        await self.replicas.close()
        self.table.close()

    # ---- its router ----------------------------------------------------------------------------------------------

    def give(self, update: TableUpdate) -> Acks:
        """Gives the router a call of its table, in time or late."""
        return self._noted(self.switch.directive(update.cursor, update.entries))

    def _noted(self, answer: Acks) -> Acks:
        made = [((ack.tenant, ack.route), ack) for ack in answer.acks if ack.state is AckState.FLIPPED]
        flips = [(key, (ack.epoch, ack.generation), ack.release) for key, ack in made]
        gone = [(key, self.table.contents.entries[key].fence, None) for key in answer.withdrawn]
        for key, fence, release in (*gone, *flips):
            assert fence >= self.promised.get(key, (fence, None))[0], f"{self.name} goes back on what it acknowledged"
            self.promised[key] = fence, release
        return answer

    async def push_engines(self) -> bool:
        ready = tuple(one.id for one in self.loaded)
        at = EngineAt(replica=self.name, socket=f"/e{self.engine}.sock", base=BASE, ready=ready)
        acks = self.switch.engines([at])
        self._noted(Acks(acks=tuple(acks)))
        await self.sync.post(tuple(acks))
        return True

    # ---- its link ----------------------------------------------------------------------------------------------

    def _with_level(self, ack: Ack) -> Ack:
        held = any(one.id == ack.release for one in self.loaded)
        level = AckLevel.HOST if held else AckLevel.DISK
        return ack.model_copy(update={"level": level, "boot": f"engine-{self.engine}"})

    def replica(self) -> Replica:
        return Replica(
            replica=self.name,
            state=EngineState.UP,
            boot=f"engine-{self.engine}",
            base=BASE,
            slots=SLOTS,
            loaded=tuple(one.id for one in self.loaded),
        )

    async def send(self, message: Any) -> bool:
        if self.link is None:
            return False
        self.sent.append(message.model_dump_json())
        return True

    async def connect(self, hub: Hub) -> None:
        """Links anew; what was under way on the link before is lost."""
        self.sent.clear()
        self.disconnect(hub)
        self.wire = Wire()
        durable, link = self.sync.durable, _link(hub, self.name, self.wire)
        hello = Hello(
            node=self.name,
            boot=f"agent-{self.agent}",
            version="1",
            epoch=durable.epoch,
            rev=durable.rev,
            hash=durable.hash,
            replicas=(self.replica(),),
            features=self.sync.features,
        )
        await link._greet(hello)
        self.link = link
        hub.links._links.add(link)
        hub.links.outbox.flush()

    def disconnect(self, hub: Hub) -> None:
        if self.link is not None:
            hub.links._links.discard(self.link)
            if self.link.node is not None:
                hub.events.unlinked(self.link.node, self.link)
            self.link = None

    async def flow(self) -> None:
        """Everything that is under way between it and the hub arrives."""
        while await self.read_one() or self.deliver_one():
            await self.loop.settle()

    async def read_one(self) -> bool:
        """Handles the next message of the hub. False: there is none."""
        if not (self.up and self.link and self.wire.frames):
            return False
        frame = self.wire.frames.popleft()
        message = down_adapter.validate_python(json.loads(frame[frame.index(b'{"') :]))
        await self.handle(message)
        return True

    async def handle(self, message: Any) -> None:
        match message:
            case Welcome():
                self.desired.welcome(message)
                await self.board.replay()
            case Desired():
                self.read.append(message)
                await self.sync.directive(message)
            case Bookmark():
                await self.sync.bookmark(message)

    def deliver_one(self) -> bool:
        """Brings the hub the next message of the node. False: there is none."""
        if self.link is None or not self.sent:
            return False
        self.link._received(self.sent.popleft().encode())
        assert self.link._refused is None, self.link._refused
        return True

    # ---- its engine --------------------------------------------------------------------------------------------

    def full(self) -> tuple[str, ...]:
        """The releases that no slot can come free for, as the agent finds them."""
        currents = [one.current.id for one in self.desired.named() if one.current is not None]
        free = residency.with_room(currents, self.claims())
        return tuple(one for one in currents if one not in free)

    def now_ms(self) -> int:
        """After the day in which a prior comes before others: all slots are for what is asked."""
        return 2 * residency.PRIOR_KEPT_MS + max((one.moved_ms or 0 for one in self.desired.named()), default=0)

    def claims(self) -> residency.Claims:
        """What may have a slot of its engine."""
        return residency.claims(self.desired.named(), base=BASE, slots=SLOTS, now_ms=self.now_ms())

    def always(self) -> set[str]:
        """What `always` routes are answered by here."""
        entries = self.table.contents.entries.values()
        return {e.current.id for e in entries if e.current is not None and e.residency is RouteResidency.ALWAYS}

    async def look(self) -> WantedLoads:
        """Its agent asks the router what is to be loaded, as it does every two seconds."""
        full = self.full()
        told = await self.cold.wanted(ColdAsk(times=-1, load_s=0.5, full=full))
        assert not {self.cold.awaited.get(key) for key in self.cold._routes} & {*full}, "it waits for no slot at all"
        return told

    async def work(self) -> None:
        """What the agent does: plans, unloads or drains, loads one release and proves what is loaded."""
        told, claims = await self.look(), self.claims()
        waiting = [(tenant, route) for tenant, route, _ in told.releases]
        answering = {at.row.release for at in self.answers}
        plan = residency.plan(
            claims,
            [one.id for one in self.loaded],
            answering=answering,
            waiting=waiting,
            hinted=[(tenant, route) for tenant, route, _ in told.hinted],
        )
        gone = {*plan.unload, *plan.drain}
        before = {one.id for one in self.loaded} & self.always()
        assert not answering.intersection(plan.unload), f"{self.name} turns out what answers"
        assert not gone & before, f"{self.name} turns out what is always there"
        assert not gone & claims.always, f"{self.name} turns out what is always there, or where R goes on it"
        self.loaded = [one for one in self.loaded if one.id not in gone]
        await self.push_engines()
        places = residency.needed(claims, waiting)
        for one in residency.in_turn(plan.load, places, loading=(), waits=bool(waiting), since_s=0.0)[:1]:
            self.loaded.append(one)
            await self.push_engines()
        held = {one.id for one in self.loaded}
        for entry in self.desired.entries.values():
            flipped = self.promised.get(entry.key)
            if entry.current is not None and entry.current.id in held and flipped == (entry.fence, entry.current.id):
                await self.board.post(ack_about(entry, self.name, AckState.PROVEN))
        await self.send(Report(replicas=(self.replica(),), nvml=NvmlState.NO_GPU, rev=0, epoch=0))

    # ---- callers -----------------------------------------------------------------------------------------------

    async def ask(self, key: PointerKey, seen: Fence | None) -> Admitted | Refusal:
        """A caller's request, as the proxy has it admitted. `seen`: what the gateway that sends it knows."""
        task = asyncio.current_task()
        assert task is not None
        self.requests.add(task)
        try:
            found = await self._admitted(task, key, fence_text(seen) if seen is not None else None)
        finally:
            self.requests.discard(task)
        if isinstance(found, Admitted):
            self.answers.append(found)
        return found

    async def _admitted(self, task: asyncio.Task[Any], key: PointerKey, seen: str | None) -> Admitted | Refusal:
        admission, cold = self.admission, self.cold
        if (refusal := await admission.behind(key, seen)) is not None:
            return refusal
        if key in cold.awaited:
            self.waiting[task] = key, self.loop.time()
            try:
                retry_s = await cold.wait(key)
            finally:
                del self.waiting[task]
            full = cold.is_full(key)
            if retry_s is not None and (refusal := admission.refuse(key, retry_s, full=full)) is not None:
                return refusal
        return admission.admit(key, "r", CALLER, streamed=False, passed_by=None)

    async def hint(self, key: PointerKey) -> None:
        self.cold.hint(key)


CALLER = Caller("", lambda unit: None, repeats=False)


def _link(hub: Hub, name: Name, wire: Wire) -> Link:
    socket: Any = SimpleNamespace(wire=wire, client=None)
    link = Link(hub.uplink, socket, LinkCaller(actor=name, role=Role.AGENT, node=name))
    link.signed = False  # this hub's key is not what is tried here
    return link
