"""A real hub with thousands of tenants that stands within a minute: its log and its fleet are laid into it.

`loradeck sim fleet` lays its tenants out one request at a time, which takes a quarter of an hour for ten thousand.
Here the same log (tenants, routes, two releases each, both promoted, the first one proven) is put into the file
through the store, and the nodes say hello, acknowledge and report inside the hub's process, where their links would
have been read. Consoles get it as ever: `loradeck hub`'s own rows, list and feed, over its own socket. Every tenant
is on two nodes, and a node reports every REPORT_S seconds.

On SIGUSR1 this hub hands out what TICKS seconds bring to consoles, each tick as soon as everybody has taken the one
before.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tests.bench.written_log import WrittenLog, attested, draft, promote, route

from incident.fleet import NotReady, wait_for
from loradeck.hub import server
from loradeck.hub.fleet.node import Node
from loradeck.hub.hub import Hub
from loradeck.hub.views.status import VERSION
from loradeck.schemas.counts import Traffic
from loradeck.schemas.ids import digest_of
from loradeck.schemas.link import Ack, Hello, Replica, Report
from loradeck.schemas.log import GENESIS, EventKind
from loradeck.schemas.manifest import BaseManifest, FileEntry, Form, Release
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.route import RouteConfig, Soak
from loradeck.schemas.table import TableEntry
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.testing.simulated_fleet import FLEET, RACK
from loradeck_agent.testing.simulated_nodes import BUILD, GPUS, gpu_figures

REPORT_S = 5.0
"""Time between a node's reports. Each tenant is on two nodes, and the figures of its row change with both."""

STANDS_S = 600.0
STANDS, HURRIED = "stands", "hurried"
"""Files by which the hub's process says how far it is."""

BASE = BaseManifest(
    model_id="simulated/base",
    revision="1",
    files=(FileEntry(path="simulated.safetensors", size=0, sha256=digest_of({"simulated": "base"})),),
)


@dataclass
class Seeded:
    """A running hub on a seeded log."""

    root: Path
    hub: subprocess.Popen[str]

    @property
    def socket(self) -> Path:
        return self.root / "hub" / "hub.sock"

    def hurry(self, meanwhile: Callable[[], None], seconds: float) -> None:
        """Until consoles have been given what TICKS seconds bring. `meanwhile` is done again and again.

        Raises: NotReady.
        """
        deadline, marker = time.monotonic() + seconds, self.root / HURRIED
        self.hub.send_signal(signal.SIGUSR1)
        while not marker.exists():
            meanwhile()
            if time.monotonic() > deadline:
                raise NotReady(f"not within {seconds:g} s: the hub hands out its ticks")
        marker.unlink()


@contextmanager
def seeded(nodes: int, tenants: int, *, ticks: int = 0) -> Iterator[Seeded]:
    """A hub where `tenants` tenants are served by `nodes` simulated nodes, all of them proven.

    `ticks`: what `hurry` hands out.
    """
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        root = Path(folder)
        write_log(root / "hub", tenants, max(1, nodes // RACK))
        command = [sys.executable, "-m", "tests.bench.seeded", str(root), str(nodes), str(ticks)]
        with (root / "hub.log").open("w") as log:
            hub = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        try:
            wait_for(f"the hub (log: {_tail(root)})", lambda: _stands(root, hub), STANDS_S)
            yield Seeded(root, hub)
        finally:
            hub.terminate()
            hub.wait(60)


def _stands(root: Path, hub: subprocess.Popen[str]) -> bool:
    if hub.poll() is not None:
        raise NotReady(f"the hub ended with {hub.returncode}: {_tail(root)}")
    return (root / STANDS).exists()


def _tail(root: Path) -> str:
    return "\n".join((root / "hub.log").read_text().splitlines()[-5:]) if (root / "hub.log").exists() else ""


# ---- the log -------------------------------------------------------------------------------------------------------


def _releases(tenant: str) -> tuple[Release, Release]:
    first, second = (
        Release(
            tenant=tenant,
            form=Form.ADAPTER,
            base=BASE.digest,
            adapter=digest_of({"simulated": tenant, "version": version}),
            label=f"v{version}",
        )
        for version in (1, 2)
    )
    return first, second


def write_log(data: Path, tenants: int, racks: int) -> None:
    """Writes the log of so many tenants into a new data folder of a hub."""
    log = WrittenLog(data, BASE)
    releases = [_releases(f"sim-{n:05}") for n in range(1, tenants + 1)]
    log.register([release for both in releases for release in both])
    log.commit([draft(EventKind.TENANT_CREATE, first.tenant) for first, _ in releases])
    racked = [RouteConfig(placement={"rack": f"r{n:04}"}, soak=Soak(seconds=0, requests=0)) for n in range(racks)]
    log.commit([route(first.tenant, racked[n % racks]) for n, (first, _) in enumerate(releases)])
    log.commit([promote(first) for first, _ in releases])
    log.store.attest_all([attested(first, RACK) for first, _ in releases])
    log.commit([promote(second, first) for first, second in releases])
    log.store.close()


# ---- the hub's program ---------------------------------------------------------------------------------------------


class _NoLink:
    """What stands for a node's connection: nothing is sent."""

    def replaced(self) -> None:
        """No other link of the same node comes."""


class _Nodes:
    """The nodes of a hub, in its own process."""

    def __init__(self, hub: Hub, nodes: int) -> None:
        self._hub = hub
        self._names = [f"sim-{n:04}" for n in range(1, nodes + 1)]
        self._racks = max(1, nodes // RACK)
        self._on: dict[str, list[tuple[TableEntry, list[int]]]] = {name: [] for name in self._names}
        self._replicas: dict[str, Replica] = {}
        self._due = 0

    async def stand(self) -> None:
        """Say hello and acknowledge everything; returns once the hub has counted every tenant as proven."""
        hub = self._hub
        by_rack: dict[str, list[TableEntry]] = {}
        for key, entry in hub.tables.entries.items():
            by_rack.setdefault(hub.log.state.config(key).placement["rack"], []).append(entry)
        for n, name in enumerate(self._names):
            rack = f"r{n // RACK % self._racks:04}"
            entries = by_rack.get(rack, [])
            self._on[name] = [(entry, [0]) for entry in entries]
            loaded = {ref.id for entry in entries for ref in (entry.current, *entry.beneath) if ref is not None}
            self._replicas[name] = replica = Replica(
                replica=name, state=EngineState.UP, base=BASE.digest, build=BUILD, slots=64, loaded=tuple(loaded)
            )
            hello = Hello(
                node=name,
                boot="seeded",
                version=VERSION,
                labels={**FLEET, "rack": rack},
                epoch=0,
                rev=0,
                hash=GENESIS,
                replicas=(replica,),
            )
            hub.node_events.linked(hello, cast("Any", _NoLink()), None)
        await asyncio.sleep(1)
        for n, (name, served) in enumerate(self._on.items()):
            for entry, _ in served:
                hub.progress.acknowledged(hub.fleet.nodes[name], _proven(entry, name))
            if n % 20 == 0:
                self.heard()
                await asyncio.sleep(0)
        while any(hub.facts.attested_generation(key, 2) is None for key in hub.tables.entries):
            self.heard()
            await asyncio.sleep(0.2)

    def heard(self) -> None:
        """Each node is linked and answers."""
        for node in self._hub.fleet.nodes.values():
            self._hub.fleet.heard(node)

    def report(self, share: float) -> None:
        """The next nodes say how they are, and how much each tenant was served."""
        many = max(1, round(len(self._names) * share))
        for _ in range(many):
            name = self._names[self._due % len(self._names)]
            self._due += 1
            self._reported(self._hub.fleet.nodes[name])

    def report_of_shown(self) -> None:
        """The next of the nodes that serve what consoles show says how it is."""
        shown = sorted({key for s in self._hub.changes.subscribers for key in s.shown or ()})
        if shown:
            placed = self._hub.replicas.placed(shown[self._due // 2 % len(shown)])
            node, _ = placed[self._due % len(placed)]
            self._due += 1
            self._reported(node)

    def _reported(self, node: Node) -> None:
        self._hub.fleet.heard(node)
        self._hub.reported(node, self._said(node.name))

    def _said(self, name: str) -> Report:
        now_ms = time.time_ns() // 1_000_000
        traffic = []
        for entry, served in self._on[name]:
            assert entry.current is not None
            served[0] += random.randrange(1, 40)
            traffic.append(
                Traffic.model_construct(
                    tenant=entry.tenant,
                    route=entry.route,
                    generation=entry.generation,
                    release=entry.current.id,
                    replica=name,
                    admitted=served[0],
                    finished=served[0],
                    checked=served[0],
                    last_admitted_ms=now_ms,
                    last_token_ms=now_ms,
                    ttft_ms=(0, 0, 0, 0, served[0]),
                )
            )
        host = Host(
            cpu_percent=random.uniform(5, 60), memory_used=64 << 30, memory_total=1024 << 30, load1=random.uniform(1, 9)
        )
        state = self._hub.log.state
        return Report(
            replicas=(self._replicas[name],),
            router_boot="seeded",
            traffic=tuple(traffic),
            host=host,
            gpus=tuple(_gpu(name, index) for index in range(GPUS)),
            nvml=NvmlState.OK,
            rev=state.rev,
            epoch=state.epoch,
        )


def _proven(entry: TableEntry, replica: str) -> Ack:
    return Ack(
        tenant=entry.tenant,
        route=entry.route,
        epoch=entry.epoch,
        generation=entry.generation,
        release=entry.current.id if entry.current else None,
        replica=replica,
        state=AckState.PROVEN,
        at_ms=time.time_ns() // 1_000_000,
    )


def _gpu(name: str, index: int) -> Gpu:
    return Gpu.model_construct(
        index=index,
        uuid=f"SIM-{name}-{index}",
        **gpu_figures(),
    )


async def _report(nodes: _Nodes) -> None:
    """A fifth of a second's share at a time, so that nothing waits for long."""
    while True:
        began = time.monotonic()
        nodes.report(0.2 / REPORT_S)
        await asyncio.sleep(max(0.0, 0.2 - (time.monotonic() - began)))


async def _beat(nodes: _Nodes) -> None:
    """Heartbeats without telemetry, so that nobody is lost."""
    while True:
        nodes.heard()
        await asyncio.sleep(1)


async def _hurry(hub: Hub, nodes: _Nodes, ticks: int) -> None:
    """`ticks` seconds of telemetry of every tenant and node, to those who watch, as fast as they take it.

    A console asks for the rows that it shows. Of the nodes that serve these, the next one reports before each tick;
    what all the others would have reported meanwhile reaches no console.
    """
    changes = hub.changes
    for _ in range(ticks):
        nodes.report_of_shown()
        changes.soon(hub.tables.entries)
        for name in hub.fleet.nodes:
            changes.node_figures(name)
        await changes.tick()
        while any(s.tenants or s.nodes or s.wake.is_set() for s in changes.subscribers):  # noqa: ASYNC110
            await asyncio.sleep(0)


def _serve(root: Path, nodes: int, ticks: int) -> None:
    usual = Hub.run
    running = set[asyncio.Task[None]]()

    async def run(self: Hub) -> None:
        loop, fleet = asyncio.get_running_loop(), _Nodes(self, nodes)
        reporting: asyncio.Task[None]

        async def begin() -> None:
            nonlocal reporting
            await fleet.stand()
            (root / STANDS).touch()
            reporting = start(_report(fleet))

        async def hurry() -> None:
            nonlocal reporting
            reporting.cancel()
            beating = start(_beat(fleet))
            await _hurry(self, fleet, ticks)
            beating.cancel()
            reporting = start(_report(fleet))
            (root / HURRIED).touch()

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                traceback.print_exception(error)
                os._exit(1)  # whoever waits for the fleet to stand is told at once

        def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            task = loop.create_task(work)
            task.add_done_callback(ended)
            running.add(task)
            return task

        loop.add_signal_handler(signal.SIGUSR1, lambda: start(hurry()))
        start(begin())
        await usual(self)

    Hub.run = run  # type: ignore[method-assign]
    server.serve(root / "hub", name="bench")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
