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
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from loradeck.artifacts import FolderBlobs
from loradeck.hub.access.sign_ins import read_settings
from loradeck.hub.app import create_app
from loradeck.hub.fleet.link_socket import FIRST_BYTES, LinkSocket
from loradeck.hub.hub import Hub
from loradeck.hub.listeners import (
    Door,
    LocalHttp,
    LocalWebSocket,
    NodeHttp,
    TcpHttp,
    host_of,
    own_socket,
    strangers,
    tcp_socket,
)
from loradeck.hub.log.disk_reserve import DiskReserve
from loradeck.hub.log.signing import private_key
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.errors import Refused
from loradeck.schemas.address import is_loopback
from loradeck.schemas.sign_in import OidcSettings
from loradeck.schemas.tenant import TokenRecord
from loradeck.store.sqlite import SqliteStore
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.head import HEAD_BYTES
from loradeck.strangers.protocol import Limits, Strangers

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

    def __init__(self, app: Any, strangers: Strangers | None = None, membership: Membership | None = None) -> None:
        super().__init__(_config(app, strangers, membership))
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


def _config(app: Any, strangers: Strangers | None, membership: Membership | None) -> uvicorn.Config:
    """uvicorn's settings: for TCP, where there are strangers, for nodes, or for the own socket."""
    http = TcpHttp if membership is None else NodeHttp

    def stranger(**server: Any) -> asyncio.Protocol:
        assert strangers is not None
        return strangers.protocol(lambda: http(**server))

    return uvicorn.Config(
        Door(app, local=strangers is None, membership=membership),
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


def open_hub(
    data: Path, *, name: str, production: bool = False, oidc: OidcSettings | None = None
) -> tuple[Hub, StoreThread]:
    """A hub over `data/hub.db`, at which people may sign in at a provider. The caller closes the store thread.

    Raises: StoreError (`store_unusable`, `disk_full`): nothing was changed.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    store = StoreThread(lambda: SqliteStore(data / "hub.db"), DiskReserve(data / "reserve"))
    try:
        key = private_key(data / "hub.key")
        blobs = FolderBlobs(data / "artifacts")
        hub = Hub(store, blobs, name=name, key=key, production=production, sqlite=SqliteStore.version, oidc=oidc)
        hub.membership = _membership(data, hub)
    except BaseException:
        store.close()
        raise
    return hub, store


def serve(
    data: Path,
    listen: str | None = None,
    name: str = "hub",
    production: bool = False,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    nodes: str | None = None,
    oidc: Path | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then writes what is in memory and closes.

    Prints one line to stderr once it is ready: `loradeck hub ready unix:PATH [http://HOST:PORT] [nodes:HOST:PORT]`.

    Args:
        data: folder of the database, the artifacts and the own socket; made 0700.
        listen: HOST:PORT; port 0 takes a free one. None: only the own socket.
        name: shown in the consoles' header.
        production: the consoles' header in reverse video.
        tls_cert: the certificate of `listen`. None: beyond loopback that of the hub's own authority.
        nodes: HOST:PORT for nodes that join, with mutual TLS. A hub that has no authority makes one.
        oidc: TOML file of the provider where people sign in (`schemas.sign_in.OidcSettings`).

    Raises:
        Refused: `invalid_request`, for arguments that do not go together.
        StoreError: the database cannot be used.
        OSError: the port is taken.
    """
    if (tls_cert is None) != (tls_key is None):
        raise Refused("invalid_request", "TLS needs both a certificate and a key", fix="give --tls-cert and --tls-key")
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
            hub, store = open_hub(data, name=name, production=production, oidc=settings)
            bound.pop_all()
        try:
            # The store's lock is held: whoever listened on the socket before is gone.
            local = own_socket(data / "hub.sock")
            log_to_stderr()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_until_signalled(hub, local, tcp, tls, for_nodes))
        finally:
            (data / "hub.sock").unlink(missing_ok=True)
            store.close()
    finally:
        os.umask(old)


@asynccontextmanager
async def serving(
    hub: Hub,
    local: socket.socket,
    tcp: socket.socket | None = None,
    tls: ServerCertificate | None = None,
    limits: Limits | None = None,
    nodes: socket.socket | None = None,
) -> AsyncIterator[asyncio.Event]:
    """Listens for a hub until the block ends; then everything in memory is written.

    `limits` are those of strangers; None: by how many files the process may open.

    Yields an event that is set when a listener or the hub's own work has ended by itself. What ended it is
    raised at the end of the block.
    """
    app = create_app(hub)
    listeners = [(_Server(app), local)]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limits = limits or Limits.under(files, files // 8)
    if tcp is not None:
        listeners.append((_Server(app, strangers(hub, limits, tls)), tcp))
    if nodes is not None:
        members = hub.membership
        assert members is not None
        mutual = ServerCertificate(members.authority.server, clients=members.authority.certificates)
        listeners.append((_Server(app, strangers(hub, limits, mutual, members), members), nodes))
    ended = asyncio.Event()
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in listeners]
    tasks.append(asyncio.create_task(hub.run()))
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
        hub.promotions.stop()
        for server, _ in listeners:
            server.ending.set()
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hub.stop()
    for task in failed:
        if not task.cancelled():
            task.result()


def _membership(data: Path, hub: Hub) -> Membership | None:
    """The nodes that a hub with an authority lets in. The hub's own certificate is renewed if it is due."""
    if not (data / "tls").exists():
        return None
    from loradeck.hub.access.authority import Authority  # with what it imports 10 MB of memory
    from loradeck.hub.access.membership import Membership

    async def save(record: TokenRecord) -> None:
        await hub.store(lambda s: s.put_token(record))

    authority = Authority(data)
    authority.renew_server(time.time_ns() // 1_000_000)
    return Membership(authority, hub.tokens, save, hub.clock.now_ms)


async def _renew(members: Membership) -> None:
    """Renews the hub's own certificate whenever it is due."""
    while True:
        await asyncio.sleep(RENEWAL_S)
        try:
            if members.authority.renew_server(time.time_ns() // 1_000_000):
                log.info("renewed the hub's certificate")
        except OSError as error:
            log.error("the hub's certificate cannot be renewed: %s", error)


async def _until_signalled(
    hub: Hub,
    local: socket.socket,
    tcp: socket.socket | None,
    tls: ServerCertificate | None,
    nodes: socket.socket | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    where = [f"unix:{local.getsockname()}"]
    for sock, before in ((tcp, "https://" if tls else "http://"), (nodes, "nodes:")):
        if sock is not None:
            host, port = sock.getsockname()[:2]
            where.append(f"{before}[{host}]:{port}" if ":" in host else f"{before}{host}:{port}")
    async with serving(hub, local, tcp, tls, nodes=nodes) as ended, asyncio.TaskGroup() as group:
        renewal = group.create_task(_renew(hub.membership)) if hub.membership else None
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_, stop.set)
        hub.gc_tuning.freeze()
        print(f"loradeck hub ready {' '.join(where)}", file=sys.stderr, flush=True)  # noqa: T201
        either = [asyncio.create_task(event.wait()) for event in (stop, ended)]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        log.info("shutting down")
        for task in (*either, *((renewal,) if renewal else ())):
            task.cancel()
