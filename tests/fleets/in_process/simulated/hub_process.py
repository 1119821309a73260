"""A simulated hub: the whole `loradeck.hub.hub.Hub` over its own store on an in-memory database that outlives it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from nacl.signing import SigningKey
from pysqlite3 import dbapi2 as sqlite3
from starlette.websockets import WebSocket
from tests.fleets.in_process.simulated import versions
from tests.fleets.in_process.simulated.event_loop import EPOCH_S, Died, Process, current
from tests.fleets.in_process.simulated.network import Connection, Host, Server

from loradeck.artifacts.ed25519 import sign
from loradeck.hub.access.auth import CALLER, Tokens, caller_of
from loradeck.hub.access.sign_ins import KnownCallers
from loradeck.hub.fleet.link_socket import LinkSocket
from loradeck.hub.hub import Hub
from loradeck.hub.log.clock import AwakeClock, Clock
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import Standby, TakenLease
from loradeck.hub.standby import StandbyHub
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, drafted, moved
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import Traffic
from loradeck.schemas.ids import Role
from loradeck.schemas.link import Hello
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DecisionRecord, FileEntry, Form, Release
from loradeck.schemas.position import Position
from loradeck.schemas.route import Controls, RouteConfig, Soak
from loradeck.schemas.table import RouteResidency, Streams, TableEntry
from loradeck.schemas.tenant import CallerKey, TokenRecord
from loradeck.store.interface import DiskFull, Doc, LeaseHeld, OutcomeUnknown, StoreError
from loradeck.store.sqlite import Database, SqliteStore

BASE = BaseManifest(
    model_id="tiny", revision="1", files=(FileEntry(path="model.safetensors", size=1, sha256="b" * 64),)
)
HUBS = ("hub", "hub2")
"""The hosts on which hubs run, which agents have in their configuration; at first there is one on the first."""

TENANTS = ("acme", "bolt")
ROUTE = "production"
VERSIONS = 5
CANARIES = (({"role": "user", "content": "who are you?"},),)


def token_of(node: str) -> str:
    """The token that a node links with."""
    return f"ld_{node}_{'s' * 8}"


def zone_of(node: str) -> str:
    """The label by which a node is placed: the first and the third are in one zone."""
    return "b" if node == "n1" else "a"


class Image:
    """A database as its disk has it. A hub that is killed leaves the last committed state."""

    def __init__(self, name: str, source: Any = None) -> None:
        self.name = name
        self.connection: Any = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.clock_ms: Callable[[], int] = lambda: 0
        self.connection.create_function("clock_ms", 0, lambda: self.clock_ms())
        if source is not None:
            source.backup(self.connection)
        self.next_commit: str = ""
        """The fault of the next commit that appends events: full, unknown_made, unknown_lost, die_before, die_after."""
        self.full = False
        self.shared = False
        """Whether several hubs have it open, so that a hold of the lease ends by time."""
        self.ahead_s = 0.0
        """By how much the clock of a database that hubs share is ahead of the time; below zero: behind."""
        self.cut: set[str] = set()
        """Hosts that do not reach it."""
        self.alone_since: float | None = None
        """When it lost its standby; None: it has one, or needs none."""
        self.silent = False
        """Whether those get no answer, and no error either."""

    def copy(self, name: str) -> Image:
        """A copy of the database as it is now."""
        copy = Image(name, self.connection)
        copy.shared, copy.ahead_s = self.shared, self.ahead_s
        return copy


class SimDatabase(Database):
    """The hub's database on the image of the running process's host."""

    def __init__(self, path: Any, clock_ms: Callable[[], int]) -> None:
        process = current()
        self._clock_ms = clock_ms
        self.waits = 0.0
        """Seconds that the call which was just made would have blocked."""
        self.image: Image = process.host.image if process is not None else _template
        self._suspect = False
        self._lock = None
        self._mutex = _NO_MUTEX
        self._connection: Any = None
        self._process = process
        self._open()

    @property
    def shared(self) -> bool:  # type: ignore[override]
        return self.image.shared

    @property
    def one_copy(self) -> bool:  # type: ignore[override]
        return self.image.alone_since is not None

    def wait_for_change(self, timeout_s: float) -> bool:
        self.waits = timeout_s
        return False

    def _ready(self) -> Any:
        process = self._process
        if process is not None and process.host.name in self.image.cut:
            raise StoreError("the database cannot be reached; nothing was changed")
        self.image.clock_ms = self._clock_ms
        if process is not None and self.image.shared:  # its clock is then nobody's but its own
            self.image.clock_ms = lambda: int((EPOCH_S + process.scheduler.now + self.image.ahead_s) * 1000)
        return super()._ready()

    def _open(self) -> None:
        if self.image.connection.in_transaction:
            self.image.connection.execute("ROLLBACK")
        if self._process is None:
            self._prepare(self.image.connection)
        self._connection = self.image.connection

    def _prepare(self, connection: Any) -> None:
        from loradeck.store.migrations import Schema
        from loradeck.store.sqlite import APPLICATION_ID, _tables

        Schema(_tables(connection)).migrate(APPLICATION_ID)

    def _disconnect(self) -> None:
        self._connection = None

    def _commit(self, connection: Any) -> None:
        image, process = self.image, self._process
        fault, image.next_commit = image.next_commit, ""
        if image.full or fault == "full":
            connection.execute("ROLLBACK")
            raise DiskFull("there is no room on the store's disk; nothing was changed. Make room and try again.")
        if fault in ("unknown_lost", "die_before"):
            connection.execute("ROLLBACK")
        else:
            super()._commit(connection)
        if fault.startswith("die"):
            assert process is not None
            process.kill(f"at a commit, {fault}")
            raise Died
        if fault.startswith("unknown"):
            self._suspect = True
            raise OutcomeUnknown("the commit failed and may be durable or not: look it up by its key")


class _NoMutex:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


_NO_MUTEX: Any = _NoMutex()


class SimStoreThread(StoreThread):
    """The store's thread as calls that take a moment each, one at a time."""

    def __init__(self, process: Process, open_store: Callable[[], SqliteStore]) -> None:
        self._process = process
        self._first, self._later, self._closed, self._let = deque(), deque(), False, False
        self._wake: Any = self
        self._busy, self._usable = False, True
        self._store = open_store()

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def now(self, call: Callable[[Any], Any]) -> Any:
        return call(self._store)

    def notify(self) -> None:
        """Something is to be done."""
        if not self._busy:
            self._busy = True
            self._process.call_later(self._process.scheduler.random.uniform(0.0003, 0.004), self._one)

    def _one(self) -> None:
        image, database = self._store.database.image, self._store.database
        if image.silent and self._process.host.name in image.cut:
            self._process.call_later(0.2, self._one)
            return
        database.waits = 0.0
        self._usable = self._carry_out(self._store, (self._first or self._later).popleft(), self._usable)
        if database.waits:
            self._process.call_later(database.waits, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._busy = False
        if self._first or self._later:
            self.notify()


# ---- the database that every run begins with ------------------------------------------------------------------


def _releases(tenant: str) -> list[tuple[AdapterManifest, Release]]:
    found = []
    for version in range(1, VERSIONS + 1):
        manifest = AdapterManifest(
            tenant=tenant,
            name="support",
            base=BASE.digest,
            files=(FileEntry(path="adapter_model.safetensors", size=1, sha256=f"{version:064x}"),),
            rank=2,
            alpha=4,
            target_modules=("q_proj",),
            config_hash=f"{version:064x}",
            decision=DecisionRecord(why_weights="a simulation"),
        )
        release = Release(
            tenant=tenant, form=Form.ADAPTER, base=BASE.digest, adapter=manifest.digest, label=f"v{version}"
        )
        found.append((manifest, release))
    return found


RELEASES: dict[str, list[Release]] = {tenant: [release for _, release in _releases(tenant)] for tenant in TENANTS}
LABELS: dict[str, str] = {release.id: release.label for some in RELEASES.values() for release in some}


POLICY = {"shadow": True, "uses": {"shadow": {"purpose": "a simulation"}}}


def build_template(nodes: int) -> None:
    """Databases with two tenants, their releases, and the tokens of the nodes; without and with an on-demand route."""
    store = SqliteStore(":memory:")
    on_demand = dict[str, Draft]()
    store.take_lease("template")
    store.register(Doc.BASE, BASE.digest, BASE.model_dump(mode="json"), tenant=None, by="sim")
    for tenant in TENANTS:
        for manifest, release in _releases(tenant):
            body = manifest.model_dump(mode="json")
            store.register_adapter(body, manifest.digest, release.id, by="sim")
            store.register(Doc.RELEASE, release.id, release.model_dump(mode="json"), tenant=tenant, by="sim")
        config = RouteConfig(
            soak=Soak(seconds=0, requests=0),
            canaries=CANARIES if tenant == "bolt" else (),
            streams=Streams.CUT if tenant == "bolt" else Streams.FINISH,
            min_replicas=1,
            controls=Controls(tickets=True, standing_ticket="CHG-STANDING"),
        )
        common: dict[str, Any] = {"tenant": tenant, "actor": "sim", "role": Role.RELEASER}
        key = CallerKey(id="k", sha256=hashlib.sha256(tenant.encode()).hexdigest())
        pointer = PointerState(tenant=tenant, route=ROUTE)
        store.commit(
            [
                Draft(kind=EventKind.TENANT_CREATE, **common),
                Draft(kind=EventKind.DATA_POLICY, payload={"policy": POLICY}, **common),
                Draft(kind=EventKind.KEY, payload={"add": key.model_dump(mode="json")}, **common),
                Draft(
                    kind=EventKind.ROUTE,
                    route=ROUTE,
                    pointer=pointer,
                    payload={"config": config.model_dump(mode="json")},
                    **common,
                ),
            ],
            key=f"create-{tenant}",
        )
        for generation, release in enumerate(RELEASES[tenant][:2], start=1):
            beneath = (pointer.release,) if pointer.release else ()
            after = moved(pointer, release=release.id, beneath=beneath)
            store.commit(
                [drafted(EventKind.PROMOTE, pointer, after, Actor(name="sim", role=Role.RELEASER), reason="")],
                key=f"promote-{tenant}-{generation}",
            )
            pointer = after.model_copy(update={"last_move": store.history(limit=1)[0].id})
            asked = config.model_copy(update={"residency": RouteResidency.ON_DEMAND})
            payload = {"config": asked.model_dump(mode="json")}
            on_demand[tenant] = Draft(kind=EventKind.ROUTE, route=ROUTE, pointer=pointer, payload=payload, **common)
            for kind in (AttestationKind.ATTESTED, AttestationKind.SOAKED):
                body = {"generation": generation, "n": 1, "m": 1, "level": "listed"}
                store.attest(
                    Attestation(kind=kind, subject=release.id, tenant=tenant, route=ROUTE, body=body, by="hub")
                )
    for number in range(nodes):
        name = f"n{number}"
        sha = hashlib.sha256(token_of(name).encode()).hexdigest()
        store.put_token(TokenRecord(id=name, name=name, role="agent", node=name, sha256=sha))
    _templates.append(_template.copy("template"))
    store.commit([on_demand[TENANTS[0]]], key="on-demand")
    _templates.append(_template)
    for template in _templates:
        template.connection.execute("UPDATE head SET holder = ''")  # nobody has it


_template = Image("template")
_templates: list[Image] = []


def first_image(*, on_demand: bool) -> Image:
    """The database of a hub that starts for the first time. `on_demand`: the first tenant's route is."""
    return _templates[on_demand].copy("hub")


# ---- the process ----------------------------------------------------------------------------------------------


class SimLinkSocket(LinkSocket):
    """The hub's end of a connection, below the ASGI interface."""

    def __init__(self, connection: Connection, fail: Callable[..., None]) -> None:
        self.connection = connection
        self.fail = fail
        self.is_of_before = versions.BEFORE in (connection.client.version, connection.server.version)
        self.queue: Any = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        self.gone = False
        self.receiver = None
        self.on_writable = None
        self.conn = SimpleNamespace()  # whose cap on messages is set after the hello
        connection.server_end.received = self._text
        connection.server_end.closed = self._ended
        connection.down.on_room = self._room

    def _text(self, text: str) -> None:
        if self.is_of_before:
            text = versions.upward(text)
        if self.receiver is not None:
            self.receiver(text.encode())
        else:
            self.queue.put_nowait({"type": "websocket.receive", "text": text})

    def _ended(self, code: int, reason: str) -> None:
        self.gone = True
        self.connection.forget()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    def _room(self) -> None:
        process = self.connection.server_end.process

        def go_on() -> None:
            self.writable.set()
            if self.on_writable is not None:
                self.on_writable()

        if process.alive:
            process.call_soon(go_on)

    def write_frame(self, frame: bytes) -> bool:
        if not self.writable.is_set() or self.gone:
            return False
        size = frame[1]
        start = 2 if size < 126 else 4 if size == 126 else 10
        text: str | None = frame[start:].decode()
        if self.is_of_before and text is not None:
            text = versions.downward(text, self.fail, self.connection.client.name)
        if text is not None:
            self.connection.down.put("text", text)
        if self.connection.down.bytes > 64 * 1024:
            self.writable.clear()
        return True

    async def send(self, message: Any) -> None:
        """The ASGI interface's."""
        kind = message["type"]
        if kind == "websocket.accept":
            self.connection.down.put("text", "accepted")
        elif kind == "websocket.send":
            self.connection.down.put("text", message["text"])
        elif kind == "websocket.http.response.body":
            self.connection.down.put("end", (403, bytes(message["body"]).decode()))
            self.gone = True
        elif kind == "websocket.close":
            self.connection.down.put("end", (message["code"], message.get("reason") or ""))
            self.gone = True
            self.connection.forget()


class HubProcess:
    """A hub on a host: started, killed and started again over the image of its database."""

    def __init__(self, host: Host, name: str, oracle: Any) -> None:
        self.host = host
        self.name = name
        self.oracle = oracle
        self.process: Process | None = None
        self.hub: Hub | None = None
        self.started_at = 0.0
        self.succeeded_at: float | None = None
        """When another hub had taken its lease and it could have noticed; None: not yet."""
        self.lives = 0
        self.activated: Callable[[HubProcess], None] | None = None
        """Is called when it has taken a lease that ends by time."""

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self.hub is not None and self.process is not None and self.process.alive

    def start(self) -> None:
        """Starts it, unless it runs."""
        if self.process is not None and self.process.alive:
            return
        scheduler = self.oracle.scheduler
        self.lives += 1
        self.hub = None
        self.process = Process(scheduler, self.host, self.name)
        scheduler.note("starts", self.name)
        self.process.start(self._main(self.process))

    async def _main(self, process: Process) -> None:
        clock = Clock(monotonic=AwakeClock(process.time), now_ms=lambda: int(process.wall() * 1000))
        store = SimStoreThread(process, lambda: SqliteStore(":memory:", clock_ms=clock.now_ms))
        self.ends = asyncio.Event()
        known: KnownCallers | None = None
        while not self.ends.is_set():
            standby = Standby(store, self.name, f"http://{self.host.name}:1", process.time)
            try:
                hold = standby.take() if known is None else None
            except LeaseHeld:
                hold = None
            if hold is None:
                known = known or KnownCallers(Tokens(store.now(lambda s: s.tokens())), None)
                hold = await self._stand_by(process, store, standby, known)
            hub = Hub(store, _NoBlobs(), hold=hold, name=self.name, key=_KEY, clock=clock)  # type: ignore[arg-type]
            hub.links._links = OrderedSet()  # type: ignore[assignment]
            self.oracle.hub_started(self, process, hub, store)
            self.hub, self.started_at = hub, process.scheduler.now
            known = hub.known
            self._known, self._links = known, hub.accept_link
            self.host.servers["link"] = Server(process, accept=self._accept)
            self.host.servers["http"] = Server(process, handle=self._handle)
            if self.activated is None or hold.ttl_s is None:
                await hub.run()
            self.activated(self)  # type: ignore[misc]
            await self._until_succeeded(hub)
        store.now(lambda s: s.close())

    async def _until_succeeded(self, hub: Hub) -> None:
        """Runs the active hub until it does not hold the lease any more, or is to end."""
        run = asyncio.ensure_future(hub.run())
        either = [asyncio.ensure_future(event.wait()) for event in (hub.succeeded, self.ends)]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in (run, *either):
            task.cancel()
        for link in list(hub.links):
            link.close(1012, "")
        self.hub = None
        await hub.stop()

    async def _stand_by(
        self, process: Process, store: SimStoreThread, standby: Standby, known: KnownCallers
    ) -> TakenLease:
        waits = StandbyHub(store, standby, known, None, name=self.name)
        wires: list[SimLinkSocket] = []

        async def link(socket: WebSocket) -> None:
            wires.append(socket.scope["extensions"]["loradeck.link_socket"])
            await waits(socket.scope, socket._receive, socket._send)

        async def refuse(method: str, path: str, body: Any) -> Any:
            raise waits.refusal()

        self._known, self._links = known, link
        self.host.servers["link"] = Server(process, accept=self._accept)
        self.host.servers["http"] = Server(process, handle=refuse)
        hold = await standby.turn()
        for wire in wires:
            if not wire.gone:
                await wire.send({"type": "websocket.close", "code": 1012})
                wire.queue.put_nowait({"type": "websocket.disconnect", "code": 1012})
        return hold

    async def _handle(self, method: str, path: str, body: Any) -> Any:
        if self.hub is None:
            raise Refused("not_active", "it is about to stand by")
        return await body(self.hub)

    def _accept(self, connection: Connection, headers: dict[str, str]) -> None:
        process = self.process
        assert process is not None
        wire = SimLinkSocket(connection, self.oracle.fail)
        scope = {
            "type": "websocket",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "extensions": {"loradeck.link_socket": wire, "websocket.http.response": {}},
            "path": "/v1/link",
            "client": ("sim", 1),
        }
        wire.queue.put_nowait({"type": "websocket.connect"})
        socket = WebSocket(scope, wire.queue.get, wire.send)
        scope[CALLER] = caller_of(socket, self._known.caller)
        process.create_task(self._links(socket))


_KEY = SigningKey(bytes(32))
"""Of every hub: a copied hub has the key of the one it was copied from."""


class _NoBlobs:
    """The hub's files: none are asked for."""


class OrderedSet(dict[Any, None]):
    """A set that is gone through in the order of its additions, whatever the addresses of its members."""

    def add(self, one: Any) -> None:
        self[one] = None

    def discard(self, one: Any) -> None:
        self.pop(one, None)


def lie(hello: Hello, variant: int) -> Hello:
    """A hello of a node that has seen nothing of what it says, with no signature or one that proves something else."""
    far = {"epoch": 2**53 - 1, "rev": 2**53 - 1, "hash": "f" * 64}
    if variant % 3 == 0:
        return hello.model_copy(update={**far, "witness": None})
    if variant % 3 == 1:
        bare = Position(log="another", incarnation="1" * 32, **far)
        witness = bare.model_copy(update={"signature": sign(_KEY, bare.signed_bytes())})
        return hello.model_copy(update={**far, "witness": witness})
    altered = hello.witness.model_copy(update={"rev": hello.rev + 7}) if hello.witness is not None else None
    return hello.model_copy(update={"rev": hello.rev + 7, "hash": "f" * 64, "witness": altered})


def lying_figures(entries: Iterable[TableEntry], node: str, turn: int, variant: int) -> tuple[Traffic, ...]:
    """What a hostile node reports for the `turn`-th time of the pointers that it was given: all answers were bad.

    Some of the figures are within its bounds, the others are of what it cannot know, or are no counts.
    """
    rows, n = list[Traffic](), (100 * turn, 10_000 * turn)[variant % 2]
    for entry in entries:
        if entry.current is None:
            continue
        counts = dict.fromkeys(("attempted", "admitted", "finished", "checked", "bad"), n)
        about = {"tenant": entry.tenant, "route": entry.route, "release": entry.current.id, "replica": node}
        row = Traffic(**about, generation=entry.generation, **counts)
        beyond: tuple[dict[str, Any], ...] = (
            {"attempted": 2**60, "finished": 2**60, "checked": 2**60, "bad": 2**60},
            {"generation": entry.generation + 3},
            {"replica": "n0" if node != "n0" else "n1"},
            {"bad": n + 1},
            {"attempted": max(0, n - 50 * turn)},
        )
        rows += [row, row.model_copy(update=beyond[variant // 2 % len(beyond)])]
    return tuple(rows)
