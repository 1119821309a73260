"""A thousand agents on one hub, with `R` on a pointer that is on all of them; and a rewind of a thousand tenants.

The nodes are those of `loradeck sim fleet`: the agents' own link, table and acknowledgements, all in one process, so
their share of the time is that of one core where a real fleet has one a node. The rewind has a fleet of two nodes, with
every tenant on both, and the log of their promotes is laid into the hub's file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from nacl.signing import SigningKey
from tests.bench import seeded
from tests.bench.rows import Row, cpu_s, quantile
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from incident.fleet import BIN, Fleet, NotReady, free_port, wait_for
from loradeck.artifacts.ed25519 import is_signed, public_half, sign
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import RewindRequest, UndoRequest
from loradeck.schemas.tenant import TokenCreate
from loradeck.testing.simulated_fleet import EVERYWHERE, FLEET, ROUTE

NODES = 1000
TENANTS = 1000
MOVES = 100
REWINDS = 5
WARM = 3
"""Moves before the first that counts."""

REST_S = 5.0
"""Seconds over which the hub is watched while nothing moves."""

SETUP_S = 420.0

CPU = 2.0
"""The most CPU of the hub for a node and move, in multiples of what a bare server takes."""


@dataclass
class Simulated:
    """A hub and the process that plays its nodes."""

    fleet: Fleet
    sim: subprocess.Popen[str]

    @property
    def hub_pid(self) -> int:
        """The hub's process."""
        assert self.fleet.hub is not None
        return self.fleet.hub.pid

    def status(self) -> dict[str, object]:
        """The newest line of `loradeck sim fleet --json`; waits for it."""
        assert self.sim.stdout is not None
        line = self.sim.stdout.readline()
        if not line:
            raise NotReady(f"the simulated fleet ended with {self.sim.wait()}")
        status: dict[str, object] = json.loads(line)
        return status

    def until(self, what: str, seconds: float, **wanted: object) -> None:
        """Until its status says so. Raises: NotReady."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if all(status[name] == value for name, value in wanted.items()):
                return
            if time.monotonic() > deadline:
                raise NotReady(f"{what}: not within {seconds:g} s, but {status}")

    def api(self) -> HubApi:
        return HubApi.to(Context(name="bench", socket=self.fleet.socket))


@contextmanager
def simulated(
    nodes: int, tenants: int, *, report_s: float, on: Sequence[int] = (), hub_options: Sequence[str] = ()
) -> Iterator[Simulated]:
    """A hub with so many simulated nodes, standing. `on`: the core of the hub, and that of the nodes' process."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        program = (*pinned(on[:1]), str(BIN / "loradeck"))
        fleet = Fleet(
            root=Path(folder), base=Path(folder), names=(), joins=False, hub_program=program, hub_options=hub_options
        )
        sim = None
        try:
            fleet.start_hub()
            command = [str(BIN / "loradeck"), "--hub", f"unix:{fleet.socket}", "sim", "fleet", "--json"]
            command += ["--link", f"http://127.0.0.1:{fleet.hub_port}", "--report-every", str(report_s)]
            command += ["--nodes", str(nodes), "--tenants", str(tenants)]
            with (fleet.root / "sim.log").open("w") as log:
                sim = subprocess.Popen([*pinned(on[1:]), *command], stdout=subprocess.PIPE, stderr=log, text=True)
            running = Simulated(fleet, sim)
            running.until("the simulated fleet stands", SETUP_S, phase="standing", linked=nodes)
            yield running
        finally:
            if sim is not None:
                sim.terminate()
                sim.communicate(timeout=120)
            fleet.stop()


@contextmanager
def two_nodes(tenants: int) -> Iterator[Simulated]:
    """A hub with so many tenants that two promotes each have moved, proven on both of its two simulated nodes."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        fleet = Fleet(root=Path(folder), base=Path(folder), names=(), joins=False)
        nodes = None
        try:
            seeded.write_log(fleet.data, tenants, racks=1)
            fleet.start_hub()
            command = [sys.executable, "-m", "loradeck_agent.testing.simulated_nodes", "--base", seeded.BASE.digest]
            command += ["--hub", f"http://127.0.0.1:{fleet.hub_port}"]
            with (fleet.root / "sim.log").open("w") as log:
                nodes = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
            running = Simulated(fleet, nodes)
            assert nodes.stdin is not None
            with nodes.stdin:
                nodes.stdin.write(json.dumps(asyncio.run(_tokens(running))))
            wait_for(
                "every tenant is proven on both nodes", lambda: asyncio.run(_all_proven(running)), SETUP_S, every=1
            )
            yield running
        finally:
            if nodes is not None:
                nodes.terminate()
                nodes.wait(120)
            fleet.stop()


async def _tokens(fleet: Simulated) -> list[dict[str, object]]:
    """The two nodes, each with a token for its link."""
    nodes: list[dict[str, object]] = []
    async with fleet.api() as api:
        for name in ("sim-0001", "sim-0002"):
            made = await api.create_token(TokenCreate(name=name, role="agent", node=name))
            nodes.append({"node": name, "token": made.token, "labels": {**FLEET, "rack": "r0000"}})
    return nodes


async def _all_proven(fleet: Simulated) -> bool:
    async with fleet.api() as api:
        return all(row.proven == row.placed == 2 for row in (await api.state()).tenants)


def pinned(cores: Sequence[int]) -> list[str]:
    """What to put before a command so that it runs on these cores only; nothing for none."""
    program = (
        "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", program, ",".join(map(str, cores))] if cores else []


def measure(*, nodes: int = NODES, tenants: int = TENANTS, moves: int = MOVES, rewinds: int = REWINDS) -> list[Row]:
    """About two minutes on two free cores."""
    with simulated(nodes, nodes // 10, report_s=1.0) as fleet:
        hub = fleet.hub_pid
        resting = _cpu_at_rest(hub)
        flips, floor, used, busy_s, floor_cpu = uvloop.run(_flips(fleet, nodes, moves, hub))
    with two_nodes(tenants) as fleet:
        back, rewind_floor, rewind_cpu = asyncio.run(_rewinds(fleet, rewinds))
    a_move = 1e6 / (2 * len(flips) * nodes)
    return [
        Row(
            f"R to flipped on {nodes:,} simulated agents: p50",
            quantile(flips, 50),
            "ms",
            len(flips),
            how="a rollback over the hub's socket, waiting for every node's acknowledgement; an undo after each",
        ),
        Row(f"R to flipped on {nodes:,} simulated agents: p99", quantile(flips, 99), "ms", len(flips)),
        Row(
            f"R to flipped on {nodes:,} simulated agents against its floor: p99 / p99",
            quantile(flips, 99) / quantile(floor, 99),
            "x",
            len(flips),
            4.0,
            how="the floor is taken in turn with it, beside the same hub and nodes with their reports",
            reference="floor",
        ),
        Row(
            f"hub with {nodes:,} nodes that report every second, at rest: of a core",
            resting * 100,
            "%",
            round(REST_S),
        ),
        Row(
            f"CPU of the hub for each of {nodes:,} nodes and move",
            (used - resting * busy_s) * a_move,
            "us",
            2 * len(flips),
            how="from R, and from its undo, to the answer, less what the hub uses in that time at rest; without TLS",
        ),
        Row(
            f"CPU of the hub for each of {nodes:,} nodes and move against a bare server's for a WebSocket",
            (used - resting * busy_s) * a_move / (floor_cpu * 1e6 / (len(floor) * nodes)),
            "x",
            len(floor),
            CPU,
            how=f"{floor_cpu * 1e6 / (len(floor) * nodes):.1f} us, in turn with the moves",
            reference="floor",
        ),
        Row(
            f"CPU of the hub for each of {nodes:,} nodes and move, with reports and heartbeats meanwhile",
            used * a_move,
            "us",
            2 * len(flips),
        ),
        Row(
            "a node verifies the signature of one entry",
            _verifying_ms(),
            "ms",
            VERIFIED,
            how="each node once for each text; simulated nodes, which share a core, once together",
        ),
        Row(
            f"floor: {nodes:,} WebSockets told and answering: p50",
            quantile(floor, 50),
            "ms",
            len(floor),
            how="as many bytes from one bare server to one client process, an answer on each, in turn with the moves",
        ),
        Row(f"floor: {nodes:,} WebSockets told and answering: p99", quantile(floor, 99), "ms", len(floor)),
        Row(
            f"a rewind of {tenants:,} tenants on 2 nodes each, to flipped: worst",
            max(back),
            "ms",
            len(back),
            how="one rewind txn, from its request to every acknowledgement; its plan was asked for before",
        ),
        Row(
            f"floor: a commit of {tenants:,} events, two frames told and answered, two fdatasyncs: worst",
            max(rewind_floor),
            "ms",
            len(rewind_floor),
            how="SQLite with its WAL synced, and two bare WebSockets whose client writes and syncs the frame",
        ),
        Row(
            "that rewind against its floor: median / median",
            quantile(back, 50) / quantile(rewind_floor, 50),
            "x",
            len(back),
            3.0,
            reference="floor",
        ),
        Row(
            f"CPU of the hub for each of {tenants:,} tenants of that rewind",
            rewind_cpu * 1e6 / (len(back) * tenants),
            "us",
            len(back),
            how="from the request to its answer, with the two nodes' reports of all tenants meanwhile",
        ),
    ]


def _cpu_at_rest(hub: int) -> float:
    """The part of a core that the hub uses while nothing moves."""
    before, began = cpu_s(hub), time.monotonic()
    time.sleep(REST_S)
    return (cpu_s(hub) - before) / (time.monotonic() - began)


async def _flips(
    fleet: Simulated, nodes: int, moves: int, hub: int
) -> tuple[list[float], list[float], float, float, float]:
    """Milliseconds of the moves and of the floor, in turn; the hub's CPU for all moves and undos, the time that they
    took, and the CPU of the floor's server, in seconds.
    """
    taken: list[float] = []
    bare: list[float] = []
    cpu = busy = floor_cpu = 0.0
    async with fleet.api() as api, bare_server(nodes) as floor:
        for turn in range(moves + WARM):
            row = await api.row(EVERYWHERE, ROUTE)
            request = rollback_request(row.preview, key=new_key(), reason="bench")
            before, began = cpu_s(hub), time.perf_counter()
            result = await api.send(EVERYWHERE, ROUTE, request, wait="flipped", timeout=30)
            ms = (time.perf_counter() - began) * 1000
            assert result.reached in ("flipped", "listed", "proven"), result
            undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
            await api.send(EVERYWHERE, ROUTE, undo, wait="flipped", timeout=30)
            used, took = cpu_s(hub) - before, time.perf_counter() - began
            before = time.process_time()  # the floor's server is this process
            below = await floor()
            below_cpu = time.process_time() - before
            if turn >= WARM:
                taken.append(ms)
                bare.append(below)
                cpu += used
                busy += took
                floor_cpu += below_cpu
    return taken, bare, cpu, busy, floor_cpu


async def _rewinds(fleet: Simulated, rewinds: int) -> tuple[list[float], list[float], float]:
    """Milliseconds back to between the first and the second promotes, each undone, and of the floor, in turn; and the
    hub's CPU for all of them, in seconds.
    """
    taken: list[float] = []
    bare: list[float] = []
    cpu = 0.0
    async with fleet.api() as api:
        rows = (await api.state()).tenants
        between = min(row.last_event.rev for row in rows if row.last_event is not None) - 1
        for _ in range(rewinds):
            request = RewindRequest(
                to_rev=between,
                tenants=tuple(row.tenant for row in rows),
                idempotency_key=new_key(),
                reason="bench",
            )
            plan = await api.plan_rewind(request)
            seen = {f"{step.tenant}/{step.route}": step.generation for step in plan.steps if step.skipped is None}
            assert len(seen) == len(rows), plan
            before, began = cpu_s(fleet.hub_pid), time.perf_counter()
            result = await api.rewind(request.model_copy(update={"generations": seen}), wait="flipped", timeout=60)
            taken.append((time.perf_counter() - began) * 1000)
            cpu += cpu_s(fleet.hub_pid) - before
            assert (result.reached, len(result.events)) == ("flipped", len(rows)), result.reached
            undo = UndoRequest(txn=result.events[0].txn, confirmed=True, idempotency_key=new_key())
            undone = await api.undo_together(undo, wait="proven", timeout=60)
            assert undone.reached == "proven", undone.reached
            bare.append(await _rewind_floor(fleet.fleet.root, len(rows)))
    return taken, bare, cpu


# ---- the floors: what it takes without a hub ---------------------------------------------------------

_DOWN = "x" * 2600
_UP = "y" * 330
"""About the sizes of a directive of one entry and of an acknowledgement."""

_EVENT = "e" * 1200
"""About the size of an event in the database."""

VERIFIED = 500


def _verifying_ms() -> float:
    key, text = SigningKey.generate(), _DOWN.encode()
    signature, keys = sign(key, text), (public_half(key),)
    began = time.perf_counter()
    for _ in range(VERIFIED):
        assert is_signed(text, signature, keys)
    return (time.perf_counter() - began) * 1000 / VERIFIED


@asynccontextmanager
async def bare_server(nodes: int) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """What tells as many bare WebSockets of another process and waits for an answer from each; milliseconds."""
    sockets: list[ServerConnection] = []
    answered = asyncio.Semaphore(0)
    all_here = asyncio.Event()

    async def met(socket: ServerConnection) -> None:
        sockets.append(socket)
        if len(sockets) == nodes:
            all_here.set()
        async for _ in socket:
            answered.release()

    async def once() -> float:
        began = time.perf_counter()
        for socket in sockets:
            await socket.send(_DOWN)
        for _ in sockets:
            await answered.acquire()
        return (time.perf_counter() - began) * 1000

    port = free_port()
    program = (sys.executable, "-m", "tests.bench.fleet", str(port), str(nodes))
    client = await asyncio.create_subprocess_exec(*program)
    try:
        async with serve(met, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096):
            async with asyncio.timeout(60):
                await all_here.wait()
            yield once
    finally:
        client.terminate()
        await client.wait()


async def _bare_clients(port: int, nodes: int) -> None:
    async def one() -> None:
        async with connect(
            f"ws://127.0.0.1:{port}", compression=None, ping_interval=None, proxy=None, open_timeout=60
        ) as socket:
            async for _ in socket:
                await socket.send(_UP)

    async with asyncio.TaskGroup() as group:
        for _ in range(nodes):
            group.create_task(one())
            await asyncio.sleep(0.001)


async def _rewind_floor(folder: Path, events: int) -> float:
    """Milliseconds of one commit of so many events, and of two frames of as many entries, written, synced, answered."""
    database = sqlite3.connect(folder / "floor.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE IF NOT EXISTS events (rev INTEGER PRIMARY KEY, body TEXT)")
    frame = _DOWN * events
    answered = asyncio.Semaphore(0)

    async def node(number: int, port: int) -> None:
        where = f"ws://127.0.0.1:{port}"
        file = os.open(folder / f"floor.{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        async with connect(where, compression=None, proxy=None, max_size=None) as socket:
            text = await socket.recv()
            assert isinstance(text, str)
            os.write(file, text.encode())
            os.fdatasync(file)
            await socket.send(_UP)
        os.close(file)

    sockets: list[ServerConnection] = []
    here = asyncio.Semaphore(0)

    async def met(socket: ServerConnection) -> None:
        sockets.append(socket)
        here.release()
        async for _ in socket:
            answered.release()

    port = free_port()
    async with serve(met, "127.0.0.1", port, compression=None, max_size=None), asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(node(number, port))
        for _ in range(2):
            await here.acquire()
        began = time.perf_counter()
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO events (body) VALUES (?)", [(_EVENT,)] * events)
        database.execute("COMMIT")
        for socket in sockets:
            await socket.send(frame)
        for _ in range(2):
            await answered.acquire()
        ms = (time.perf_counter() - began) * 1000
    database.close()
    return ms


if __name__ == "__main__":
    uvloop.run(_bare_clients(int(sys.argv[1]), int(sys.argv[2])))
