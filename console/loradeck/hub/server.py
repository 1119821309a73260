"""`loradeck hub`: one process, its own socket, perhaps a TCP port, and a clean end."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from loradeck.hub.access.sign_ins import read_settings
from loradeck.hub.app import Calls
from loradeck.hub.data.erasure_list import START_S, TAKEOVER_S
from loradeck.hub.fleet.link_socket import FIRST_BYTES, LinkSocket
from loradeck.hub.hub import Hub
from loradeck.hub.listeners import (
    Door,
    Gate,
    LocalHttp,
    LocalWebSocket,
    NodeHttp,
    TcpHttp,
    host_of,
    own_socket,
    strangers,
    tcp_socket,
)
from loradeck.hub.log.takeover import TakenLease
from loradeck.hub.process import HubProcess
from loradeck.hub.recovery.backups import EVERY_S
from loradeck.rules.errors import Refused
from loradeck.rules.moves.witness import WithoutStandby
from loradeck.schemas.address import is_loopback
from loradeck.schemas.dataset_ledger import NameModels
from loradeck.store.interface import LeaseHeld, OutcomeUnknown, StoreError, Unusable
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections
from loradeck.strangers.protocol import HEAD_BYTES, StrangerLimits, Strangers
from loradeck.systemd.notify import Service

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership

log = logging.getLogger("loradeck.hub")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

RENEWAL_S = 3600
"""Seconds between two looks at whether the hub's own certificate is to be renewed."""

END_S = 3
"""How long connections have to end at a shutdown."""


class _Server(uvicorn.Server):
    """A listener that leaves signals to its caller: they are handled once, for both listeners."""

    def __init__(
        self, app: Any, gate: Gate, strangers: Strangers | None = None, membership: Membership | None = None
    ) -> None:
        super().__init__(_config(app, gate, strangers, membership))
        self._strangers = strangers
        self.listening = asyncio.Event()
        self.ending = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, and sets `listening`."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the connections, strangers first: uvicorn does not know them, and would wait for them."""
        for server in self.servers:
            server.close()
        if self._strangers is not None:
            self._strangers.close()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        """uvicorn's, without its ten polls a second: the date header goes on, and `ending` ends it at once."""
        while not self.ending.is_set():
            await self.on_tick(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), 1.0)


def _config(app: Any, gate: Gate, strangers: Strangers | None, membership: Membership | None) -> uvicorn.Config:
    """uvicorn's settings: for TCP, where there are strangers, for nodes, or for the own socket."""
    http = TcpHttp if membership is None else NodeHttp

    def stranger(**server: Any) -> asyncio.Protocol:
        assert strangers is not None
        return strangers.protocol(partial(_known, http, strangers.connections, server))

    return uvicorn.Config(
        Door(app, gate, strangers is None, membership),
        http=LocalHttp if strangers is None else stranger,  # type: ignore[arg-type]
        ws=LocalWebSocket if strangers is None else LinkSocket,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # heartbeats are part of the link and of the feed
        ws_max_size=FIRST_BYTES,
        h11_max_incomplete_event_size=HEAD_BYTES,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # whoever is on this host could name any address
        timeout_keep_alive=60,
        timeout_graceful_shutdown=END_S,
        backlog=4096,
    )


def _known(http: type[TcpHttp], counted: Connections | None, server: Mapping[str, Any]) -> TcpHttp:
    """The protocol of a caller who has shown a key."""
    made = http(**server)
    made.counted = counted
    return made


class LogLine(logging.Formatter):
    """One line for each entry: control characters in it are escaped, since a node or a stranger may have sent them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of an entry."""
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().format(record))


def log_to_stderr() -> None:
    """Logs to stderr, a line for each entry: time in UTC, level, logger, text."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = LogLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def serve(
    data: Path,
    listen: str | None = None,
    name: str = "hub",
    production: bool = False,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    nodes: str | None = None,
    oidc: Path | None = None,
    address: str = "",
    database: str | None = None,
    backup_to: Path | None = None,
    backup_every: float = EVERY_S / 3600,
    artifacts: str | None = None,
    notices: Path | None = None,
    names: NameModels | None = None,
    without_standby: str = WithoutStandby.REFUSE,
    keys: Path | None = None,
    key_program: Path | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then writes what is in memory, gives up the lease and closes.

    Prints one line to stderr once it is ready: `loradeck hub ready unix:PATH [http://HOST:PORT] [nodes:HOST:PORT]`.
    While another hub holds the lease of its database it stands by, and says so in a line like it with `standby`.

    Args:
        data: folder of the database, the artifacts and the own socket; made 0700.
        listen: HOST:PORT; port 0 takes a free one. None: only the own socket.
        name: shown in the consoles' header.
        production: the consoles' header in reverse video.
        tls_cert: the certificate of `listen`. None: beyond loopback that of the hub's own authority.
        nodes: HOST:PORT for nodes that join, with mutual TLS. A hub that has no authority makes one.
        oidc: TOML file of the provider where people sign in (`schemas.sign_in.OidcSettings`).
        database: URL of a PostgreSQL database, without a password. None: the file `hub.db` in `data`.
        backup_to: folder for backups of the database, with the blobs that are new; None: none is made by the clock.
        backup_every: hours between two of them.
        artifacts: URL of an object store for artifacts. None: the folder `artifacts` in `data`.
        notices: TOML file of the channels on which people are told (`schemas.notice.ChannelFile`).
        names: models that look for names in rows that come in; None: nothing does.
        without_standby: what becomes of commits that wait for the database's standby in vain (`WithoutStandby`).
        keys: folder of the keys under which rows lie. None: `keys` in `data`; with a `database` rows are not sealed.
        key_program: program that holds the tenants' keys. None: the folder does.
        address: URL at which callers elsewhere reach this hub, which hubs that stand by tell theirs. Empty: `listen`.

    Raises:
        Refused: `invalid_request`, for arguments that do not go together.
        StoreError: the database cannot be used.
        BadArtifact: `store_lies`, `bad_store`, the object store cannot be used.
        OSError: the port is taken.
    """
    if (tls_cert is None) != (tls_key is None):
        raise Refused("invalid_request", "TLS needs both a certificate and a key", fix="give --tls-cert and --tls-key")
    if key_program is not None and database is not None and keys is None:
        fix = "give --keys, a folder that each of the hubs reaches"
        raise Refused("invalid_request", "hubs that share a database share the folder of keys", fix=fix)
    settings = read_settings(oidc) if oidc is not None else None
    old = os.umask(0o077)
    # A link is a file descriptor, and the usual limit of 1,024 is fewer than the nodes of a fleet.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        server = data / "tls" / "server.pem"
        if nodes and not server.exists():
            from loradeck.hub.access.authority import Authority

            Authority.make(data, [host_of(nodes)], time.time_ns() // 1_000_000)
        if tls_cert is None and server.exists() and listen and not is_loopback(host_of(listen)):
            tls_cert = server
        tls = ServerCertificate(tls_cert, tls_key) if tls_cert else None
        with ExitStack() as bound:
            tcp = bound.enter_context(tcp_socket(listen, tls=tls is not None)) if listen else None
            for_nodes = bound.enter_context(tcp_socket(nodes, tls=True)) if nodes else None
            address = address or (_where(tcp, "https://" if tls else "http://") if tcp else "")
            process = HubProcess(
                data,
                name=name,
                production=production,
                oidc=settings,
                address=address,
                database=database,
                backup_to=backup_to,
                backup_every_s=backup_every * 3600,
                artifacts=artifacts,
                notices=notices,
                names=names,
                without_standby=WithoutStandby(without_standby),
                keys=keys,
                key_program=key_program,
            )
            bound.pop_all()
        try:
            # The store's lock is held: whoever listened on the socket before is gone.
            sockets = Sockets(own_socket(data / "hub.sock"), tcp, tls, for_nodes)
            log_to_stderr()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_until_signalled(process, sockets))
        finally:
            (data / "hub.sock").unlink(missing_ok=True)
            process.store.close()
    finally:
        os.umask(old)


@dataclass(frozen=True)
class Sockets:
    """What a hub listens on: its own socket, TCP for callers with a token, perhaps with TLS, and TCP for nodes."""

    local: socket.socket
    tcp: socket.socket | None = None
    tls: ServerCertificate | None = None
    nodes: socket.socket | None = None

    def again(self) -> Sockets:
        """Copies of the sockets, which are closed apart from these. Whoever connects meanwhile waits."""
        tcp, nodes = (sock.dup() if sock is not None else None for sock in (self.tcp, self.nodes))
        return Sockets(self.local.dup(), tcp, self.tls, nodes)

    def __str__(self) -> str:
        where = [f"unix:{self.local.getsockname()}"]
        if self.tcp is not None:
            where.append(_where(self.tcp, "https://" if self.tls else "http://"))
        if self.nodes is not None:
            where.append(_where(self.nodes, "nodes:"))
        return " ".join(where)


def _where(sock: socket.socket, before: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{before}[{host}]:{port}" if ":" in host else f"{before}{host}:{port}"


@asynccontextmanager
async def serving(hub: Hub, sockets: Sockets, limits: StrangerLimits | None = None) -> AsyncIterator[asyncio.Event]:
    """Listens for the active hub until the block ends; then everything in memory is written.

    `limits` are those of strangers; None: by how many files the process may open.

    Yields an event that is set when a listener or the hub's own work has ended by itself. What ended it is
    raised at the end of the block.
    """
    hub.dated.listener = sockets.tls
    settles = hub.background.spawn(hub.settle_lists())
    await asyncio.wait([settles], timeout=TAKEOVER_S if hub.log.lease_ends else START_S)  # then it goes on by itself
    try:
        async with _listening(Calls(hub), hub, sockets, hub.run(), limits, hub.promotions.stop) as ended:
            yield ended
    finally:
        await hub.stop()


@asynccontextmanager
async def _listening(
    app: Any,
    gate: Gate,
    sockets: Sockets,
    work: Coroutine[Any, Any, None],
    limits: StrangerLimits | None = None,
    ending: Callable[[], None] = lambda: None,
) -> AsyncIterator[asyncio.Event]:
    """Listens for an app, and does its work, until the block ends. `ending` is called before connections are ended."""
    listeners = [(_Server(app, gate), sockets.local)]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limits = limits or StrangerLimits.under(files, files // 8)
    connections = Connections()
    gate.metrics.count_connections(connections)
    if sockets.tcp is not None:
        listeners.append((_Server(app, gate, strangers(gate, limits, sockets.tls, connections)), sockets.tcp))
    if sockets.nodes is not None:
        members = gate.membership
        assert members is not None
        mutual = ServerCertificate(members.authority.server, clients=members.authority.certificates)
        listeners.append(
            (_Server(app, gate, strangers(gate, limits, mutual, connections, members), members), sockets.nodes)
        )
    ended = asyncio.Event()
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in listeners]
    tasks.append(asyncio.create_task(work))
    for task in tasks:
        task.add_done_callback(lambda _: ended.set())
    try:
        for server, _ in listeners:
            up = asyncio.create_task(server.listening.wait())
            await asyncio.wait((up, *tasks), return_when=asyncio.FIRST_COMPLETED)
            up.cancel()
        yield ended
    finally:
        failed = [t for t in tasks if t.done()]
        ending()
        for server, _ in listeners:
            server.ending.set()
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        if not task.cancelled():
            task.result()


async def _renew(members: Membership) -> None:
    """Renews the hub's own certificate whenever it is due."""
    while True:
        await asyncio.sleep(RENEWAL_S)
        try:
            if members.authority.renew_server(time.time_ns() // 1_000_000):
                log.info("renewed the hub's certificate")
        except OSError as error:
            log.error("the hub's certificate cannot be renewed: %s", error)


async def _until_signalled(process: HubProcess, sockets: Sockets) -> None:
    """Serves until SIGTERM or SIGINT, and tells systemd so."""
    loop = asyncio.get_running_loop()
    stop, service = asyncio.Event(), Service()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    feeding = asyncio.create_task(service.feed())
    try:
        await _by_turns(process, sockets, stop, service)
    finally:
        feeding.cancel()


async def _by_turns(process: HubProcess, sockets: Sockets, stop: asyncio.Event, service: Service) -> None:
    """Stands by, is active, and stands by again, as the lease has it."""
    hold: TakenLease | None
    try:
        hold = process.standby.take()
    except (LeaseHeld, OutcomeUnknown) as held:  # or the database waits for a standby that is not there
        log.info("%s", held)
        hold = await _stood_by(process, sockets, stop, service)
    while hold is not None:
        try:
            hub = process.active(hold)
        except StoreError as error:
            if hold.ttl_s is None or isinstance(error, Unusable):  # trying again would change nothing
                raise
            log.error("the takeover failed code=%s %s; this hub stands by again", error.code, error)
            hold = await _stood_by(process, sockets, stop, service)
            continue
        async with serving(hub, sockets.again()) as ended, asyncio.TaskGroup() as group:
            renewal = group.create_task(_renew(hub.membership)) if hub.membership else None
            hub.gc_tuning.freeze()
            _say("ready", sockets)
            service.ready()
            # Where nobody else can have taken the lease, a hub that has lost it goes on to say so.
            lost = hub.succeeded if hold.ttl_s is not None else asyncio.Event()
            await _first(stop, ended, lost)
            over = stop.is_set() or ended.is_set()
            log.info("shutting down" if over else "standing by")
            if over:
                service.stopping()
            if renewal is not None:
                renewal.cancel()
        hold = None if over else await _stood_by(process, sockets, stop, service)


async def _stood_by(process: HubProcess, sockets: Sockets, stop: asyncio.Event, service: Service) -> TakenLease | None:
    """Stands by until the lease is this hub's. None: it was signalled."""
    waits, turn = process.standing_by(), asyncio.create_task(process.standby.turn())
    taken = asyncio.Event()
    turn.add_done_callback(lambda _: taken.set())
    async with _listening(waits, waits, sockets.again(), waits.run()) as ended:
        _say("standby", sockets)
        service.ready()
        await _first(stop, ended, taken)
    if turn.done():
        return turn.result()
    turn.cancel()
    return None


async def _first(*events: asyncio.Event) -> None:
    """Waits until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _say(what: str, sockets: Sockets) -> None:
    print(f"loradeck hub {what} {sockets}", file=sys.stderr, flush=True)  # noqa: T201
