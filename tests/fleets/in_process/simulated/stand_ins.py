"""Puts the simulated clock, disk, network and randomness in the place of the real ones in all modules of the product.

A module reaches the world through the modules that it imports: `time`, `os`, `fcntl`, `secrets`, `uuid`, an HTTP
client, a WebSocket, child processes. These names are replaced once, in this process; every stand-in asks which
simulated process runs. So the product needs no way in for the simulation, and modules written later are simulated as
well.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import pkgutil
import random
import sys
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from tests.fleets.in_process.simulated import node_process
from tests.fleets.in_process.simulated.disk import SYSTEM, holder_of
from tests.fleets.in_process.simulated.event_loop import EPOCH_S, Process, Scheduler, current
from tests.fleets.in_process.simulated.hub_process import BASE, SimDatabase
from tests.fleets.in_process.simulated.network import Connection, HttpClient, Network
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

import loradeck.hub
import loradeck.store
import loradeck_agent.router
from loradeck.artifacts import ed25519
from loradeck.hub.links import node_link
from loradeck.rules.moves import campaigns
from loradeck.rules.quality import steps
from loradeck_agent import daemon
from loradeck_agent.host import supervisor
from loradeck_agent.jobs import node_jobs
from loradeck_agent.router import client as router_client
from loradeck_agent.router import engine_pools, handover, serve
from loradeck_agent.router import table as router_table
from loradeck_agent.serving import engine_api, router_sync
from loradeck_agent.uplink import hub_api, link

_scheduler = Scheduler(0)


def begin(scheduler: Scheduler) -> None:
    """Makes a run's generator the source of all randomness, and forgets what an earlier run left."""
    global _scheduler
    _scheduler = scheduler
    random.seed(scheduler.random.random())
    node_link._parts = itertools.cycle(range(node_link.PARTS))


class SimTime:
    """Stands in for the module `time`."""

    def monotonic(self) -> float:
        process = current()
        return process.time() if process is not None else _scheduler.now + 1000.0

    def time(self) -> float:
        process = current()
        return process.wall() if process is not None else EPOCH_S + _scheduler.now

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    perf_counter = monotonic


class SimSecrets:
    """Stands in for `secrets` and `uuid`."""

    def token_hex(self, size: int = 32) -> str:
        return f"{_scheduler.random.getrandbits(size * 8):0{size * 2}x}"

    def uuid4(self) -> Any:
        return SimpleNamespace(hex=self.token_hex(16))


def install() -> None:
    """Replaces the names. Once for a process."""
    logging.disable(logging.CRITICAL)
    campaigns.PROVE_MS = 1_000
    steps.FEWEST_KEYS, steps.FEWEST_OF_ARM = 4, 2  # there are seventeen users
    for package in (loradeck.hub, loradeck.store, loradeck_agent.router):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(("__main__", "store.postgres")):  # no server is simulated
                importlib.import_module(found.name)
    real: dict[str, Any] = {
        "time": SimTime(),
        "secrets": SimSecrets(),
        "uuid": SimSecrets(),
        "os": SYSTEM,
        "fcntl": SYSTEM,
        "HttpClient": HttpClient,
    }
    originals = [sys.modules[name] for name in ("time", "secrets", "uuid", "os", "fcntl")]
    for name, module in list(sys.modules.items()):
        if not name.startswith(("loradeck.", "loradeck_agent.")):
            continue
        for attribute, stand_in in real.items():
            mine = getattr(module, attribute, None)
            if isinstance(mine, ModuleType) and mine in originals:
                if attribute in ("os", "fcntl") and not name.startswith("loradeck_agent."):
                    continue
                setattr(module, attribute, stand_in)
    _put(ed25519, _verifies=lru_cache(maxsize=65536)(ed25519._verifies))
    for user in (router_client, engine_api, hub_api):
        _put(user, HttpClient=HttpClient)
    _put(sys.modules["loradeck.store.sqlite"], Database=SimDatabase)
    _put(link, connect=Connect)
    _put(router_table, open=SYSTEM.open_file, make_private=lambda folder: None, reserve=lambda file, offset, size: True)
    _put(
        engine_pools,
        aiohttp=SimpleNamespace(UnixConnector=lambda **_: None, TCPConnector=lambda **_: None),
        upstream_session=lambda *_: node_process.HttpSession(),
    )
    _put(
        supervisor,
        subprocess=SimpleNamespace(Popen=node_process.Popen, DEVNULL=-1),
        holder_of=_holder_of,
        trim=lambda path: None,
        keep_trimmed=_forever,
        signal=_SIGNAL,
    )
    _put(handover, HttpClient=HttpClient, holder_of=_holder_of, signal=_SIGNAL)
    _put(serve, secrets=SimpleNamespace(token_hex=_own_pid))
    _put(router_sync, Listening=node_process.Listening, build=lambda: "simulated")
    _put(node_jobs, sweep=lambda folder: None)
    _put(
        daemon,
        ReleaseStore=node_process.ReleaseStore,
        CanaryRecords=node_process.CanaryRecords,
        InputStore=node_process.Idle,
        CheckpointStore=node_process.Idle,
        Collector=node_process.Idle,
        Telemetry=node_process.Telemetry,
        base_digest=lambda folder, cache: BASE.digest,
    )
    # The real one looks through the folders of Python's path at every hello: a twentieth of a seed.
    _put(sys.modules["loradeck_agent.reports"], REPORT_S=2.0, training_versions=dict)


_SIGNAL = SimpleNamespace(
    SIGKILL=9, pidfd_send_signal=SYSTEM.pidfd_send_signal, Signals=lambda number: SimpleNamespace(name="SIGKILL")
)


def _put(module: ModuleType, **names: Any) -> None:
    for name, value in names.items():
        if name != "open" and not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} to replace")
        setattr(module, name, value)


def _own_pid(size: int) -> str:
    process = current()
    assert process is not None
    return str(process.pid)


def _holder_of(path: Any) -> int | None:
    return holder_of(path)


async def _forever(*unused: Any) -> None:
    process = current()
    assert process is not None
    await process.create_future()


# ---- the agent's WebSocket ------------------------------------------------------------------------------------


class Connect:
    """Stands in for `websockets.asyncio.client.connect`: `async with` gives the agent's end of a connection."""

    def __init__(self, url: str, *, additional_headers: dict[str, str], open_timeout: float, **unused: Any) -> None:
        self._hub = str(urlsplit(url).hostname)
        self._headers = additional_headers
        self._timeout = open_timeout

    async def __aenter__(self) -> ClientSocket:
        process = current()
        assert process is not None
        network: Network = process.host.network
        source, hub = process.host.name, self._hub
        answer = process.create_future()

        def arrive() -> None:
            if not process.alive or answer.done():
                return
            target = network.host(hub)
            if not network.whole(source, hub) or not network.whole(hub, source) or not target.up:
                network.scheduler.later(network.scheduler.random.uniform(0.2, 2.0), arrive)
                return
            server = target.listening("link")
            if server is None or server.accept is None:
                process.call_soon(lambda: answer.done() or answer.set_exception(ConnectionRefusedError("refused")))
                return
            connection = Connection(network, process, server.process)
            socket = ClientSocket(connection, process, answer)
            server.process.call_soon(server.accept, connection, self._headers)
            del socket

        network.scheduler.later(network.delay(source, hub), arrive)
        async with asyncio.timeout(self._timeout):
            self._socket: ClientSocket = await answer
        return self._socket

    async def __aexit__(self, *error: object) -> None:
        self._socket.close()


class ClientSocket:
    """The agent's end, as far as `Link` uses it."""

    def __init__(self, connection: Connection, process: Process, opened: asyncio.Future[ClientSocket]) -> None:
        self._connection = connection
        self._opened = opened
        self._process = process
        self._received: asyncio.Queue[str | None] = asyncio.Queue()
        self._end: ConnectionClosed | None = None
        self.transport = SimpleNamespace(abort=self._abort)
        connection.client_end.received = self._text
        connection.client_end.closed = self._closed

    def _text(self, text: str) -> None:
        if text == "accepted" and not self._opened.done():
            self._opened.set_result(self)
            return
        self._received.put_nowait(text)

    def _closed(self, code: int, reason: str) -> None:
        if self._end is not None:
            return
        self._connection.forget()
        rcvd = Close(code, reason) if code != 1006 else None
        self._end = ConnectionClosed(rcvd, None)
        if not self._opened.done():
            if code == 403:
                self._opened.set_exception(InvalidStatus(Response(403, "Forbidden", None, reason.encode())))  # type: ignore[arg-type]
            else:
                self._opened.set_exception(ConnectionResetError("reset"))
        self._received.put_nowait(None)

    def _abort(self) -> None:
        self._connection.up.put("end", (1006, ""))
        self._closed(1006, "")

    def close(self) -> None:
        """Ends it from this side."""
        if self._end is None:
            self._connection.up.put("end", (1000, ""))
            self._end = ConnectionClosed(None, None)
        self._connection.forget()

    async def send(self, text: str) -> None:
        if self._end is not None:
            raise self._end
        self._connection.up.put("text", text)

    async def recv(self) -> str:
        text = await self._received.get()
        if text is None:
            self._received.put_nowait(None)
            assert self._end is not None
            raise self._end
        return text
