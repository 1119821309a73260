"""Simulated nodes: the agent's own link, table and acknowledgements, many in one process, serving nothing.

`loradeck sim fleet` starts this (`python -m loradeck_agent.testing.simulated_nodes`), to see how a hub and a console
do with a fleet that is not at hand. What the hub hears is what agents say: the same client, the same checks of what
came down, acknowledgements in the same order. What is made up is behind that: there is no router that makes a flip
durable, no engine that answers canaries, and the figures of hosts and GPUs are invented.
"""

import asyncio
import gc
import hashlib
import json
import logging
import os
import random
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import uvloop
from pydantic import Field, TypeAdapter, ValidationError

import loradeck_agent
from loradeck.artifacts.ed25519 import is_signed
from loradeck.schemas import link as wire
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.counts import Traffic
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Digest, Name, PointerKey, Strict
from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.table import TableEntry
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck_agent.host.config import AgentConfig, RouterConfig
from loradeck_agent.host.identity import Login
from loradeck_agent.host.process import allow_open_files
from loradeck_agent.router.wire import ack_about
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable, DirectiveVerdict
from loradeck_agent.uplink.link import Link

log = logging.getLogger(__name__)

GPUS = 8
SLOTS = 2048
"""Adapters that a simulated engine holds: as many tenants as a benchmark puts on two nodes."""
PROOF_S = (0.5, 1.5)
"""Bounds of the time after which a proof passes; on a real node engines answer canaries meanwhile."""

OPENED_S = 0.001

REQUESTS_S = 2.0
"""Requests that each simulated replica says it answers a second, shared by its tenants."""

BUILD = EngineBuild(engine="simulated", device="none", dtype="none")


class SimulatedNode(Strict):
    """A node to play: its name, the token it links with, and its labels."""

    node: Name
    token: str = Field(min_length=1, repr=False)
    labels: dict[str, str]


class Node:
    """One simulated node with one replica. `run` keeps its link up until cancelled."""

    def __init__(self, settings: SimulatedNode, *, hub: str, ca: Path | None, base: str, report_s: float) -> None:
        self.name = settings.node
        self._labels = settings.labels
        self._base = base
        self._report_s = report_s
        self._boot = f"simulated-{os.getpid()}-{settings.node}"
        nowhere = Path("/nonexistent")  # a simulated node keeps nothing on a disk
        config = AgentConfig(
            node=settings.node,
            hub=hub,
            ca=ca,
            token=nowhere,
            state=nowhere,
            labels=settings.labels,
            router=RouterConfig(listen="127.0.0.1:1"),
        )
        tls = ssl.create_default_context(cafile=str(ca) if ca else None) if hub.startswith("https") else None
        login = Login.of_token(settings.token, tls)
        self.link = Link(
            config,
            lambda: login,
            hello=self._hello,
            handle=self._handle,
            changed=self._link_changed,
            noted=_nothing,
            parse=_parsed_once,
        )
        self.table = DesiredTable(verify=_verified_once)
        self.acks = AckBoard(self.link.send, frozenset({self.name}))
        self.reports = 0
        self._unapplied: wire.Desired | None = None
        self._proofs: dict[PointerKey, asyncio.Task[None]] = {}
        self._answered: dict[tuple[str, str, int, str], int] = {}
        self._replica = self._with_loaded()

    async def run(self) -> None:
        """Keeps the link and sends reports until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run())
            group.create_task(self._report())

    # ---- what the hub says -----------------------------------------------------------------------------------

    async def _hello(self) -> wire.Hello:
        await self._take_in()
        cursor = self.table.cursor
        return wire.Hello(
            protocol=PROTOCOL,
            node=self.name,
            boot=self._boot,
            version=loradeck_agent.__version__,
            labels=self._labels,
            epoch=cursor.epoch,
            rev=cursor.rev,
            hash=cursor.hash,
            witness=cursor.witness,
            replicas=(self._replica,),
        )

    async def _handle(self, message: wire.DownMessage) -> None:
        await self._take_in()
        match message:
            case wire.Desired():
                await self._directive(message)
            case wire.Bookmark():
                self.table.bookmark(message)
            case wire.Welcome():
                self.table.welcome(message)
            case wire.JobMessage():
                await self._job(message.job)
            case wire.TableAsk():
                cursor = self.table.cursor
                entries = tuple(self.table.entries.values())
                await self.link.send(
                    wire.TableState(epoch=cursor.epoch, rev=cursor.rev, hash=cursor.hash, entries=entries)
                )
            case wire.TraceAsk():
                await self.link.send(wire.TraceRows(ask=message.ask, rows=(), trouble="a simulated node has no router"))
            case wire.SampleAsk():
                await self.link.send(wire.SampleRows(ask=message.ask, trouble="a simulated node has no router"))
            case wire.CanaryAsk():
                trouble = dict.fromkeys((ref.id for ref in message.releases), "a simulated node has no engine")
                await self.link.send(wire.CanaryAnswers(ask=message.ask, trouble=trouble))
            case wire.NodeOrder():
                pass  # there is no driver to let go of
            case _:
                log.debug("%s: passed over a %s", self.name, message.type)

    async def _directive(self, message: wire.Desired) -> None:
        verdict = self.table.judge(message)
        if verdict is DirectiveVerdict.GAP:
            await self.link.send(wire.Resync(why=f"revisions up to {message.prev_rev} were missed"))
        if verdict is not DirectiveVerdict.APPLY:
            return
        if self.table.flaw(message) or self.table.forged(message):
            raise RuntimeError(f"revision {message.rev} is not what a hub of its log signed")
        # As on a node: the acknowledgement first, everything else after it.
        current = [entry for entry in message.entries if entry.current is not None]
        for entry in message.entries:
            held = self.table.entries.get(entry.key)
            if held is None or entry.fence >= held.fence:
                rev = message.rev if entry.current is None else None
                flip = ack_about(entry, self.name, AckState.FLIPPED, rev=rev)
                await self.acks.post(flip.model_copy(update={"mono_ns": time.monotonic_ns()}))
        # A fleet's nodes do not share a core. Here they do: all acknowledge before any goes through its table, which
        # comes before this node's next message, and before a proof.
        self._unapplied = message
        for entry in current:
            if not self.acks.proven(entry, self.name):
                self._prove(entry)

    async def _take_in(self) -> None:
        """Takes the last directive's entries in."""
        message, self._unapplied = self._unapplied, None
        if message is None:
            return
        if not self.table.apply(message):
            await self.link.send(wire.Resync(why=f"the table differs from the hub's at revision {message.rev}"))
        self._replica = self._with_loaded()

    def _prove(self, entry: TableEntry) -> None:
        before = self._proofs.pop(entry.key, None)
        if before is not None:
            before.cancel()

        async def prove() -> None:
            await asyncio.sleep(random.uniform(*PROOF_S))
            await self._take_in()
            await self.acks.post(ack_about(entry, self.name, AckState.PROVEN))

        self._proofs[entry.key] = asyncio.create_task(prove())

    async def _job(self, job: JobAssignment) -> None:
        """A prepare has nothing to load and is done at once; any other work is refused."""
        if job.spec.kind == "prepare":
            outcome: dict[str, str] = {"type": ExecutorEventType.FINISHED}
        else:
            why = f"{self.name} is simulated and has nothing to work with"
            outcome = {"type": ExecutorEventType.FAILED, "code": "simulated", "message": why}
        event = ExecutorEvent.model_validate(
            {"run": job.id, "attempt": job.attempt, "seq": 1, "ts": time.time(), **outcome}
        )
        await self.link.send(wire.JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event))

    async def _link_changed(self, connected: bool) -> None:
        if connected:
            await self.acks.replay()

    # ---- what the node says ----------------------------------------------------------------------------------

    def _with_loaded(self) -> wire.Replica:
        loaded = {ref.id for entry in self.table.entries.values() for ref in entry.refs}
        return wire.Replica(
            replica=self.name,
            state=EngineState.UP,
            boot=self._boot,
            base=self._base,
            build=BUILD,
            slots=SLOTS,
            loaded=tuple(sorted(loaded)),
            gpus=tuple(range(GPUS)),
        )

    async def _report(self) -> None:
        """At its own moment of every period, as nodes that were not started together do."""
        await asyncio.sleep(random.uniform(0, self._report_s))
        due = time.monotonic()
        while True:
            if self.link.connected and await self.link.send(self._said()):
                self.reports += 1
            due = max(due + self._report_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def _said(self) -> wire.Report:
        cursor = self.table.cursor
        return wire.Report(
            replicas=(self._replica,),
            router_boot=self._boot,
            traffic=tuple(self._traffic()),
            host=Host(
                cpu_percent=random.uniform(5, 60),
                memory_used=random.randrange(64, 512) << 30,
                memory_total=1024 << 30,
                load1=random.uniform(1, 40),
            ),
            gpus=tuple(self._gpu(index) for index in range(GPUS)),
            nvml=NvmlState.OK,
            rev=cursor.rev,
            epoch=cursor.epoch,
        )

    def _traffic(self) -> Iterator[Traffic]:
        now_ms = time.time_ns() // 1_000_000
        entries = [entry for entry in self.table.entries.values() if entry.current is not None]
        for entry in entries:
            assert entry.current is not None
            name = (*entry.key, entry.generation, entry.current.id)
            n = self._answered[name] = self._answered.get(name, 0) + max(
                1, round(REQUESTS_S * self._report_s / len(entries))
            )
            yield Traffic(
                tenant=entry.tenant,
                route=entry.route,
                generation=entry.generation,
                release=entry.current.id,
                replica=self.name,
                attempted=n,
                admitted=n,
                finished=n,
                checked=n,
                last_admitted_ms=now_ms,
                last_token_ms=now_ms,
                ttft_ms=(0, 0, 0, 0, n),
            )

    def _gpu(self, index: int) -> Gpu:
        return Gpu(
            index=index, uuid=f"SIM-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}-{index}", **gpu_figures()
        )


# A fleet's nodes do not share a core. Here they do: what all of them get is read once, and verified once.
_parsed_once = lru_cache(maxsize=256)(wire.down_adapter.validate_json)
_verified_once = lru_cache(maxsize=4096)(is_signed)


def _nothing() -> None:
    """Nobody reads the status of a simulated node."""


async def play(nodes: list[Node]) -> None:
    """Runs all nodes until SIGTERM or SIGINT, or until its parent has gone; prints once a second how far they are.

    A line is `{"nodes", "linked", "reports", "error"}`; the error is what one of those that are not linked met. Links
    are opened `OPENED_S` apart, and by their own back-off later.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starter = os.getppid()
    frozen = False
    tasks = []
    for node in nodes:
        tasks.append(asyncio.create_task(node.run()))
        await asyncio.sleep(OPENED_S)
    while not stop.is_set() and os.getppid() == starter:
        linked = sum(node.link.connected for node in nodes)
        if linked == len(nodes) and not frozen:
            # An agent's heap is that of one node: no collector goes through a thousand of them before one answers.
            gc.set_threshold(20_000, 50, 100)
            gc.freeze()
            frozen = True
        line = {
            "nodes": len(nodes),
            "linked": linked,
            "reports": sum(node.reports for node in nodes),
            "error": next((node.link.status.error for node in nodes if not node.link.connected), None) or "",
        }
        click.echo(json.dumps(line))
        for task in tasks:
            if task.done():
                task.result()
        try:
            async with asyncio.timeout(1.0):
                await stop.wait()
        except TimeoutError:
            continue
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_settings: TypeAdapter[list[SimulatedNode]] = TypeAdapter(list[SimulatedNode])


def read_nodes(text: bytes) -> list[SimulatedNode]:
    """Parses the list of nodes. Raises: click.ClickException: it is none; the message repeats no token."""
    try:
        return _settings.validate_json(text)
    except ValidationError as error:
        raise click.ClickException(f"stdin holds no list of nodes: {first_wrong(error)}") from None


@click.command()
@click.option("--hub", required=True, metavar="URL", help="The hub's TCP address.")
@click.option("--ca", type=click.Path(path_type=Path), help="Authority of an https:// hub, PEM.")
@click.option("--base", required=True, help="Digest of the base that every replica says it runs.")
@click.option("--report-every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="SECONDS")
def main(hub: str, ca: Path | None, base: Digest, report_every: float) -> None:
    """Links the simulated nodes that stdin lists to a hub until it is interrupted. `loradeck sim fleet` starts this.

    They come by stdin because they carry tokens, which belong neither on a disk nor on a command line.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("loradeck_agent.uplink.link").setLevel(
        logging.ERROR
    )  # a thousand nodes would say it a thousand times
    allow_open_files()
    nodes = [Node(one, hub=hub, ca=ca, base=base, report_s=report_every) for one in read_nodes(sys.stdin.buffer.read())]
    uvloop.run(play(nodes))


def gpu_figures() -> dict[str, Any]:
    """Invents what a GPU that does not exist says of itself now: fields of `Gpu` beside its index and uuid."""
    return {
        "name": "Simulated 80GB",
        "utilisation": random.randrange(101),
        "memory_used": random.randrange(20, 79) << 30,
        "memory_total": 80 << 30,
        "power_w": round(random.uniform(90, 690), 1),
        "power_limit_w": 700.0,
        "temperature_c": random.randrange(35, 80),
        "clock_sm_mhz": random.randrange(600, 1980),
        "clock_mem_mhz": 2619,
        "ecc_uncorrected": 0,
        "ecc_corrected": 0,
        "remapped_rows": 0,
    }


if __name__ == "__main__":
    main()
