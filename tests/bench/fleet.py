"""A thousand agents on one hub: `R` on a pointer that is placed on all of them, and a rewind of a thousand tenants.

The nodes are `loradeck sim fleet`: the agents' own link, table and acknowledgements, all in one process, so their
share of the time is that of one core where a real fleet has one a node.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from tests.bench.rows import Row, cpu_s, quantile
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from incident.fleet import BIN, Fleet, NotReady, free_port
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.request import rollback_request
from loradeck.schemas.moves import RewindRequest, UndoRequest
from loradeck.testing.simulated_fleet import EVERYWHERE, ROUTE

NODES = 1000
TENANTS = 1000
MOVES = 100
REWINDS = 5
WARM = 3
"""Moves before the first that counts."""

SETUP_S = 420.0


@dataclass
class Simulated:
    """A hub and the process that plays its nodes."""

    fleet: Fleet
    sim: subprocess.Popen[str]

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
def simulated(nodes: int, tenants: int, *, report_s: float, on: Sequence[int] = ()) -> Iterator[Simulated]:
    """A hub with so many simulated nodes, standing. `on`: the core of the hub, and that of the nodes' process."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        program = (*pinned(on[:1]), str(BIN / "loradeck"))
        fleet = Fleet(root=Path(folder), base=Path(folder), names=(), hub_program=program)
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


def pinned(cores: Sequence[int]) -> list[str]:
    """What to put before a command so that it runs on these cores only; nothing for none."""
    program = (
        "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", program, ",".join(map(str, cores))] if cores else []


def measure(*, nodes: int = NODES, tenants: int = TENANTS, moves: int = MOVES, rewinds: int = REWINDS) -> list[Row]:
    """About two minutes on two free cores, most of them for registering and promoting."""
    with simulated(nodes, tenants, report_s=1.0) as fleet:
        hub = fleet.fleet.hub
        assert hub is not None
        before = cpu_s(hub.pid)
        flips = asyncio.run(_flips(fleet, moves))
        cpu_ms = (cpu_s(hub.pid) - before) * 1000 / (2 * (moves + WARM))  # each with its undo
        back = asyncio.run(_rewinds(fleet, rewinds))
    floor = _floor(nodes, moves)
    return [
        Row(
            f"R to flipped on {nodes:,} simulated agents: p50",
            quantile(flips, 50),
            "ms",
            len(flips),
            how="a rollback over the hub's socket, waiting for every node's acknowledgement; an undo after each",
        ),
        Row(f"R to flipped on {nodes:,} simulated agents: p99", quantile(flips, 99), "ms", len(flips), 150.0),
        Row(
            "CPU of the hub for each of these moves",
            cpu_ms,
            "ms",
            2 * len(flips),
            how="with the reports, heartbeats and proofs meanwhile; the rest is the nodes' share of one core",
        ),
        Row(
            f"floor: {nodes:,} WebSockets told and answering: p50",
            quantile(floor, 50),
            "ms",
            len(floor),
            how="as many bytes from one bare server to one client process, and an answer on each, without a hub",
        ),
        Row(f"floor: {nodes:,} WebSockets told and answering: p99", quantile(floor, 99), "ms", len(floor)),
        Row(
            f"a rewind of {tenants:,} tenants on 2 nodes each, to flipped: worst",
            max(back),
            "ms",
            len(back),
            1000.0,
            how="one rewind txn, from its request to every acknowledgement; its plan was asked for before",
        ),
    ]


async def _flips(fleet: Simulated, moves: int) -> list[float]:
    taken: list[float] = []
    async with fleet.api() as api:
        for turn in range(moves + WARM):
            row = await api.row(EVERYWHERE, ROUTE)
            request = rollback_request(row.preview, key=new_key(), reason="bench")
            began = time.perf_counter()
            result = await api.rollback(EVERYWHERE, ROUTE, request, wait="flipped", timeout=30)
            ms = (time.perf_counter() - began) * 1000
            assert result.reached in ("flipped", "listed", "proven"), result
            if turn >= WARM:
                taken.append(ms)
            undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
            await api.undo(EVERYWHERE, ROUTE, undo, wait="flipped", timeout=30)
    return taken


async def _rewinds(fleet: Simulated, rewinds: int) -> list[float]:
    """Back to between the first and the second promotes, and undone."""
    taken: list[float] = []
    async with fleet.api() as api:
        rows = [row for row in (await api.state()).tenants if row.tenant != EVERYWHERE]
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
            began = time.perf_counter()
            result = await api.rewind(request.model_copy(update={"generations": seen}), wait="flipped", timeout=60)
            taken.append((time.perf_counter() - began) * 1000)
            assert (result.reached, len(result.events)) == ("flipped", len(rows)), result.reached
            undo = UndoRequest(txn=result.events[0].txn, confirmed=True, idempotency_key=new_key())
            undone = await api.undo_together(undo, wait="proven", timeout=60)
            assert undone.reached == "proven", undone.reached
    return taken


# ---- the floor: what so many WebSockets take without a hub ---------------------------------------------------------

_DOWN = "x" * 1800
_UP = "y" * 330
"""About the sizes of a directive of one entry and of an acknowledgement."""


def _floor(nodes: int, moves: int) -> list[float]:
    port = free_port()
    client = subprocess.Popen([sys.executable, "-m", "tests.bench.fleet", str(port), str(nodes)])
    try:
        return uvloop.run(_bare_server(port, nodes, moves))
    finally:
        client.terminate()
        client.wait()


async def _bare_server(port: int, nodes: int, moves: int) -> list[float]:
    sockets: list[ServerConnection] = []
    answered = asyncio.Semaphore(0)
    all_here = asyncio.Event()

    async def met(socket: ServerConnection) -> None:
        sockets.append(socket)
        if len(sockets) == nodes:
            all_here.set()
        async for _ in socket:
            answered.release()

    taken: list[float] = []
    async with serve(met, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096):
        async with asyncio.timeout(60):
            await all_here.wait()
        for turn in range(moves + WARM):
            began = time.perf_counter()
            for socket in sockets:
                await socket.send(_DOWN)
            for _ in sockets:
                await answered.acquire()
            if turn >= WARM:
                taken.append((time.perf_counter() - began) * 1000)
    return taken


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


if __name__ == "__main__":
    uvloop.run(_bare_clients(int(sys.argv[1]), int(sys.argv[2])))
