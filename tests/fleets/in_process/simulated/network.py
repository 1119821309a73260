"""The simulated network: connections between hosts that delay, stall, break and lie half open; and calls over them.

A connection is two pipes that keep their order, as TCP does: what a cut link loses is sent again once it is whole,
unless the connection was given up meanwhile. Calls (HTTP) are a request and an answer, either of which may be lost with
its connection, and a request may arrive twice where its sender tries again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fleets.in_process.simulated.disk import Disk
from tests.fleets.in_process.simulated.event_loop import Process, Scheduler, current

from loradeck.schemas.protocol import PROTOCOL
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.host.http_client import Reply

LOCAL_S = (0.00002, 0.0004)
REMOTE_S = (0.0002, 0.004)
RETRANSMIT_S = 2.0
DIRECTIVE, BOOKMARK = '{"type":"desired"', '{"type":"bookmark"'
ROOM = 64 * 1024
"""Bytes that a pipe takes before its writer has to wait."""


class Host:
    """A machine: a disk, a clock, and the processes that listen on it."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.disk = Disk(scheduler, name)
        self.skew = 0.0
        self.up = True
        self.slow_router_s = 0.0
        self.version = PROTOCOL
        """Of the wire, which its hub, or its agent and router, speak."""
        self.processes: list[Process] = []
        self.servers: dict[str, Server] = {}
        self.rivals: dict[str, Server] = {}
        """Address -> who answered there before, and still answers some who had found it then."""
        self._scheduler = scheduler

    def table_hash(self) -> str:
        """The hash of the newest event in the durable table of this node."""
        inode = self.disk.durable.get("/state/router/table.jsonl")
        newest = (0, 0, "")
        for line in inode.synced.split(b"\n") if inode is not None else ():
            body = line.partition(b" ")[2]
            if body.endswith(b"}"):
                newest = json.loads(body).get("position") or newest
        return str(newest[2])

    def listening(self, address: str) -> Server | None:
        """Who answers at an address of this host now."""
        server, rival = self.servers.get(address), self.rivals.get(address)
        if rival is not None and rival.process.alive and self._scheduler.random.random() < 0.5:
            return rival
        return server if server is not None and server.process.alive else None


@dataclass(eq=False)
class Server:
    """A listener: `handle` answers calls, `accept` takes connections."""

    process: Process
    handle: Callable[[str, str, Any], Awaitable[Any]] | None = None
    accept: Callable[[Connection, dict[str, str]], None] | None = None


class Network:
    """All links between hosts, and what is wrong with them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.hosts: dict[str, Host] = {}
        self.cut: dict[tuple[str, str], int] = {}
        """(from, to) -> how many faults cut that direction now."""
        self.slow_s: dict[str, float] = {}
        """Host -> up to so many seconds that every message from and to it takes longer."""
        self.loses: dict[str, float] = {}
        """Node -> the share of the directives to it that are lost on their way."""
        self._stalled: list[Pipe] = []
        self.connections: list[Connection] = []

    def host(self, name: str) -> Host:
        """The host of this name, made at its first use."""
        if name not in self.hosts:
            self.hosts[name] = Host(self.scheduler, name)
        return self.hosts[name]

    def whole(self, source: str, target: str) -> bool:
        """Whether messages pass in this direction."""
        return source == target or not self.cut.get((source, target))

    def delay(self, source: str, target: str) -> float:
        """Seconds that a message takes now."""
        draw = self.scheduler.random
        if source == target:
            return draw.uniform(*LOCAL_S)
        slow = max(self.slow_s.get(source, 0.0), self.slow_s.get(target, 0.0))
        return draw.uniform(*REMOTE_S) + (draw.uniform(0, slow) if slow else 0.0)

    def lost(self, pipe: Pipe, text: str) -> bool:
        """Whether a message is lost on its way: directives, and the bookmarks after them until one arrives again."""
        if text.startswith(DIRECTIVE):
            share = self.loses.get(pipe.target.name)
            pipe.missing = share is not None and self.scheduler.random.random() < share
            return pipe.missing
        return pipe.missing and text.startswith(BOOKMARK)

    def sever(self, source: str, target: str) -> None:
        """Cuts one direction, until `mend` is called as often."""
        self.cut[source, target] = self.cut.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Takes back a `sever`; what stalled is sent again."""
        self.cut[source, target] -= 1
        if self.cut[source, target]:
            return
        stalled, self._stalled = self._stalled, []
        for pipe in stalled:
            self.scheduler.later(self.scheduler.random.uniform(0, RETRANSMIT_S), pipe.pump)

    def stall(self, pipe: Pipe) -> None:
        """Keeps a pipe until its link is whole."""
        if pipe not in self._stalled:
            self._stalled.append(pipe)

    def break_connections(self, a: str, b: str) -> None:
        """Resets every connection between two hosts: both ends see it."""
        for connection in list(self.connections):
            if {connection.client.name, connection.server.name} == {a, b}:
                connection.reset()

    # ---- calls ---------------------------------------------------------------------------------------------

    async def call(self, target: str, address: str, method: str, path: str, body: Any, *, timeout: float) -> Any:
        """Makes a call from the running process. What it raises is what the server's handler raised.

        Raises: Unreachable: no answer came; it may have been carried out or not.
        """
        process = current()
        assert process is not None
        answer = process.create_future()
        _Call(self, process, self.host(target), address, method, path, body, answer).send()
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise Unreachable(address, f"no answer for {timeout:g} s", silent=True) from None


@dataclass(eq=False)
class _Call:
    network: Network
    process: Process
    target: Host
    address: str
    method: str
    path: str
    body: Any
    answer: asyncio.Future[Any]

    def send(self) -> None:
        source = self.process.host.name
        self._over(source, self.target.name, self._arrived)

    def _over(self, source: str, target: str, then: Callable[[], None]) -> None:
        network = self.network

        def arrive() -> None:
            if (self.answer.done() or not self.process.alive) and network.scheduler.random.random() < 0.5:
                return  # nobody waits any more; what was sent may still arrive
            if network.whole(source, target):
                then()
            else:
                network.scheduler.later(network.scheduler.random.uniform(0.2, RETRANSMIT_S), arrive)

        network.scheduler.later(network.delay(source, target), arrive)

    def _arrived(self) -> None:
        server = self.target.listening(self.address) if self.target.up else None
        if not self.target.up:
            return  # nobody refuses: it is silent
        if server is None or server.handle is None:
            self._back(lambda: self._fail(Unreachable(self.address, "connection refused")))
            return
        handle, process, waited = server.handle, server.process, server.process.paused

        def begin() -> None:
            slow_s = self.target.slow_router_s if self.address.endswith("router.sock") else 0.0
            if waited or slow_s:  # connections are served in any order
                process.call_later(self.network.scheduler.random.uniform(0, slow_s or 0.05), carry_out)
            else:
                carry_out()

        def carry_out() -> None:
            task = process.create_task(handle(self.method, self.path, self.body))
            task.add_done_callback(done)

        def done(task: asyncio.Task[Any]) -> None:
            if lost in process.ended:
                process.ended.remove(lost)
            if task.cancelled():
                self._back(lambda: self._fail(Unreachable(self.address, "connection closed")))
            elif (error := task.exception()) is not None:
                self._back(lambda: self._fail(error))
            else:
                result = task.result()
                self._back(lambda: self._succeed(result))

        def lost() -> None:
            if self.target.up:
                self._back(lambda: self._fail(Unreachable(self.address, "connection reset")))

        process.ended.append(lost)
        process.call_soon(begin)

    def _back(self, then: Callable[[], None]) -> None:
        self._over(self.target.name, self.process.host.name, then)

    def _fail(self, error: BaseException) -> None:
        self.process.call_soon(lambda: None if self.answer.done() else self.answer.set_exception(error))

    def _succeed(self, result: Any) -> None:
        self.process.call_soon(lambda: None if self.answer.done() else self.answer.set_result(result))


class HttpClient:
    """Stands in for the agent's HTTP client."""

    def __init__(self, endpoint: Any, headers: Any = None) -> None:
        self.endpoint = endpoint
        self.headers = headers or {}

    async def call(self, method: str, path: str, body: Any = None, *, timeout: float, **unused: Any) -> Reply:
        """One call, to a socket of this host or to another host."""
        process = current()
        assert process is not None
        network: Network = process.host.network
        unix = self.endpoint.unix
        target, address = (process.host.name, str(unix)) if unix else (self.endpoint.host, "http")
        answer: Reply = await network.call(target, address, method, path, body, timeout=timeout)
        return answer

    async def get(self, path: str, *, timeout: float) -> Reply:
        """A GET."""
        return await self.call("GET", path, timeout=timeout)

    async def post(self, path: str, body: Any, *, timeout: float) -> Reply:
        """A POST of JSON."""
        return await self.call("POST", path, body, timeout=timeout)

    def close(self) -> None:
        """Nothing is kept open."""


# ---- connections ----------------------------------------------------------------------------------------------


class End:
    """One end of a connection. `received` and `closed` are called in its process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.received: Callable[[str], None] = lambda text: None
        self.closed: Callable[[int, str], None] = lambda code, reason: None
        self.writable: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Pipe:
    """One direction of a connection: messages arrive in order, or not at all."""

    network: Network
    source: Host
    target: Host
    end: End
    queue: deque[tuple[str, Any]] = field(default_factory=deque)
    bytes: int = 0
    last_at: float = 0.0
    on_room: Callable[[], None] = lambda: None
    broken: bool = False
    missing: bool = False

    def put(self, kind: str, what: Any) -> None:
        """Puts a message, or the end, behind what was put before."""
        if self.broken:
            return
        self.queue.append((kind, what))
        if kind == "text":
            self.bytes += len(what)
        now = self.network.scheduler.now
        self.last_at = max(self.last_at, now + self.network.delay(self.source.name, self.target.name))
        self.network.scheduler.later(self.last_at - now, self.pump)

    def pump(self) -> None:
        """Delivers what has arrived by now."""
        if not self.queue or self.broken:
            return
        if not self.network.whole(self.source.name, self.target.name) or not self.target.up:
            self.network.stall(self)
            return
        kind, what = self.queue.popleft()
        if kind == "text" and self.network.lost(self, what):
            return
        if kind == "text":
            full, self.bytes = self.bytes > ROOM, self.bytes - len(what)
            if full and self.bytes <= ROOM:
                self.on_room()
        process = self.end.process
        if not process.alive:
            self.broken = True
            return
        if kind == "text":
            process.call_soon(self.end.received, what)
        else:
            process.call_soon(self.end.closed, *what)


class Connection:
    """A connection between two processes."""

    def __init__(self, network: Network, client: Process, server: Process) -> None:
        self.network = network
        self.client: Host = client.host
        self.server: Host = server.host
        self.client_end, self.server_end = End(client), End(server)
        self.up = Pipe(network, self.client, self.server, self.server_end)
        self.down = Pipe(network, self.server, self.client, self.client_end)
        network.connections.append(self)
        client.ended.append(lambda: self._process_gone(self.client, self.up))
        server.ended.append(lambda: self._process_gone(self.server, self.down))

    def _process_gone(self, host: Host, outgoing: Pipe) -> None:
        """The kernel closes what a killed process had open; a machine without power does not."""
        if host.up:
            outgoing.put("end", (1006, ""))

    def reset(self) -> None:
        """Both ends see that it broke."""
        for pipe in (self.up, self.down):
            if not pipe.broken:
                pipe.queue.clear()
                pipe.put("end", (1006, ""))
        self.forget()

    def forget(self) -> None:
        """It has ended."""
        if self in self.network.connections:
            self.network.connections.remove(self)
