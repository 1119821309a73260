"""Agents that speak the real link and serve nothing: they acknowledge, prove and report as a test tells them to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tests.fleets.linked.hub import BASE, Deck
from tests.fleets.waiting import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.counts import AskedAgain, Traffic
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import RECIPES, JobAssignment, Scheduled
from loradeck.schemas.link import (
    Ack,
    CanaryAnswers,
    CanaryAsk,
    Challenge,
    ChallengeAnswer,
    Desired,
    DownMessage,
    Heartbeat,
    Hello,
    JobCancel,
    JobEvent,
    JobMessage,
    JobRoom,
    Replica,
    Report,
    Resync,
    SampleAsk,
    SampleRows,
    TableAsk,
    TableState,
    TraceAsk,
    TraceRows,
    Welcome,
    down_adapter,
)
from loradeck.schemas.log import GENESIS
from loradeck.schemas.position import Position
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.schemas.replica_state import HEARTBEAT_S, AckState, EngineState
from loradeck.schemas.table import Pin, TableEntry, table_digest
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.trace import TraceRow

BUILD = EngineBuild(engine="fake", device="cpu", dtype="float32")

_boots = itertools.count(1)


class Agent(ABC):
    """A node's side of a link: what it says, what it keeps of what it hears, and what it answers.

    `acknowledges`, `flips`, `proves`, `proof`, `prepares` ('finish', 'fail' or 'hold') say how it behaves; `received`
    is everything that came down. Its cursor and table outlive a link, as a router's table does.
    """

    def __init__(self, name: str, *, base: str = BASE.digest, slots: int = 4, **labels: str) -> None:
        self.name = name
        self.labels = labels
        self.replica = Replica(
            replica=name, state=EngineState.UP, boot="b1", base=base, build=BUILD, slots=slots, loaded=()
        )
        self.protocol = PROTOCOL
        self.features: tuple[str, ...] = tuple(SUPPORTED)
        self.boot = f"a{next(_boots)}"
        self.answers_challenges = True
        self.acknowledges = True
        self.flips = True
        self.proves = True
        self.proof = AckState.PROVEN
        self.prepares = "finish"
        self.epoch, self.rev, self.hash = 0, 0, GENESIS
        self.witness: Position | None = None
        self.entries: dict[tuple[str, str], TableEntry] = {}
        self.fences: list[tuple[str, int, int]] = []
        self.received: list[DownMessage] = []
        self.jobs: dict[str, JobAssignment] = {}
        self.running_jobs: tuple[tuple[str, int], ...] = ()
        self.pins: tuple[Pin, ...] = ()
        self.stored: tuple[str, ...] = ()
        self.memory_gb: float | None = None
        self.others: tuple[Replica, ...] = ()
        """Further replicas of the node, which are only reported."""
        self.room: JobRoom | None = None
        self.traced: tuple[TraceRow, ...] | None = ()
        """What its router remembers; None: it does not answer."""
        self.sampled: Callable[[SampleAsk], SampleRows] | None = None
        """The samples that its router keeps; None: it does not answer."""
        self.canaries: Callable[[CanaryAsk], CanaryAnswers] | None = None
        """Its engine's answers to questions about canaries; None: it does not answer."""
        self.has_served: set[tuple[str, str]] = set()
        self.welcome: Welcome | None = None
        self.recipes = RECIPES
        self.training: dict[str, str] = {}
        self.gpus: tuple[Gpu, ...] = ()
        self.host: Host | None = None
        self.scheduled: tuple[tuple[str, int, Scheduled], ...] = ()

    def hello(self) -> Hello:
        return Hello(
            protocol=self.protocol,
            features=self.features,
            node=self.name,
            boot=self.boot,
            version="0.1.0",
            labels=self.labels,
            epoch=self.epoch,
            rev=self.rev,
            hash=self.hash,
            witness=self.witness,
            replicas=(self.replica, *self.others),
            pins=self.pins,
            jobs=self.running_jobs,
            stored=self.stored,
            memory_gb=self.memory_gb,
            recipes=self.recipes,
            training=self.training,
        )

    @abstractmethod
    async def send(self, message: Any) -> None:
        """Sends a message up the link."""

    async def take(self, message: DownMessage) -> None:
        """Notes a message that came down, and does what it asks for."""
        self.received.append(message)
        match message:
            case Welcome():
                self.welcome = message
            case Desired():
                await self._desired(message)
            case JobMessage():
                self.jobs[message.job.id] = message.job
                await self.work(message.job)
            case JobCancel():
                self.jobs.pop(message.job, None)
            case TableAsk():
                await self.send(
                    TableState(epoch=self.epoch, rev=self.rev, hash=self.hash, entries=tuple(self.entries.values()))
                )
            case TraceAsk():
                await self._trace(message)
            case SampleAsk():
                if self.sampled is not None and (kept := self.sampled(message)) is not None:
                    await self.send(kept)
            case Challenge():
                if self.answers_challenges:
                    await self.send(ChallengeAnswer(nonce=message.nonce, boot=self.boot))
            case CanaryAsk():
                if self.canaries is not None:
                    await self.send(self.canaries(message))
            case _:
                pass

    async def work(self, job: JobAssignment) -> None:
        """Does a prepare, as told. Any other job is left to the test."""
        if job.spec.kind == "prepare" and self.prepares != "hold":
            await self.say(job, ExecutorEventType.FAILED if self.prepares == "fail" else ExecutorEventType.FINISHED)

    async def _trace(self, ask: TraceAsk) -> None:
        """Its router's trace, from `traced`; nothing, where that is None."""
        if self.traced is None:
            return
        fit = [row for row in self.traced if ask.release in (None, row.release)]
        fit = [row for row in fit if ask.before is None or row.seq < ask.before]
        rows = tuple(fit[-ask.last :])
        await self.send(TraceRows(ask=ask.ask, rows=rows, more=len(fit) > len(rows), since_ms=1))

    async def _desired(self, message: Desired) -> None:
        if not message.full and message.prev_rev != self.rev:
            await self.send(Resync(why="gap"))
            return
        if message.full:
            self.entries = {}
        for entry in message.entries:
            self.entries[entry.key] = entry
            self.fences.append((f"{entry.tenant}/{entry.route}", entry.epoch, entry.generation))
        self.epoch, self.rev, self.hash = message.epoch, message.rev, message.hash
        self.witness = message.position
        if table_digest(self.entries.values()) != message.table:
            await self.send(Resync(why="digest"))
            return
        for entry in message.entries:
            await self.acknowledge(entry)

    async def acknowledge(self, entry: TableEntry) -> None:
        """Flip and prove as told; what it has no engine for leaves behind the replica that served the pointer."""
        if not self.acknowledges:
            return
        if entry.current is None:
            await self.ack(entry, AckState.FLIPPED)
            return
        if entry.current.release.served_base != self.replica.base:
            if entry.key in self.has_served:
                await self.ack(entry, AckState.WAITING, code="no_engine", detail="gap policy left: v1 answers")
            return
        self.has_served.add(entry.key)
        if entry.current.release.adapter and entry.current.id not in self.replica.loaded:
            loaded = (*self.replica.loaded, entry.current.id)
            self.replica = self.replica.model_copy(update={"loaded": loaded})
        if self.flips:
            await self.ack(entry, AckState.FLIPPED)
        if self.flips and self.proves:
            await self.ack(entry, self.proof)

    async def ack(self, entry: TableEntry, state: AckState, **update: Any) -> None:
        ack = Ack(
            tenant=entry.tenant,
            route=entry.route,
            epoch=entry.epoch,
            generation=entry.generation,
            release=entry.current.id if entry.current else None,
            replica=self.replica.replica,
            state=state,
            at_ms=0,
            rev=self.rev,
        )
        await self.send(ack.model_copy(update=update))

    async def say(
        self, job: JobAssignment, type_: ExecutorEventType, result: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """One event of a job."""
        fields: dict[str, Any] = {"code": "boom", "message": "it broke"} if type_ is ExecutorEventType.FAILED else {}
        event = ExecutorEvent(run=job.id, attempt=job.attempt, type=type_, **({"seq": 1, "ts": 0} | fields | more))
        await self.send(JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event, result=result))

    async def report(self, *traffic: Traffic, router_boot: str = "r1") -> None:
        await self.send(
            Report(
                replicas=(self.replica, *self.others),
                router_boot=router_boot,
                traffic=traffic,
                gpus=self.gpus,
                host=self.host,
                nvml=NvmlState.OK if self.gpus else NvmlState.NO_GPU,
                pins=self.pins,
                scheduled=self.scheduled,
                rev=self.rev,
                epoch=self.epoch,
                stored=self.stored,
                room=self.room,
            )
        )

    def served(self, **counts: int) -> Traffic:
        """Counters of what is live on acme/production here."""
        entry = self.entries["acme", "production"]
        assert entry.current is not None
        return Traffic(
            tenant="acme",
            route="production",
            generation=entry.generation,
            release=entry.current.id,
            replica=self.replica.replica,
            **counts,
        )

    def served_badly(self, beneath: str, **counts: int) -> Traffic:
        """Counters of a live release whose answers are bad, while the release beneath answers the same well."""
        bad, n = counts["bad"], counts["checked"]
        pairs = AskedAgain(release=beneath, asked=n, pairs=n, checked=n, bad=(bad, 0))
        return self.served(**counts).model_copy(update={"again": pairs})

    @property
    def entry(self) -> TableEntry:
        return self.entries["acme", "production"]


class LinkedAgent(Agent):
    """An agent on a bare WebSocket with a token: it may say whatever a test has it say.

    `deck`: where its tokens are made; None: `join` is given a token, and the port of a hub that is another process.
    """

    def __init__(
        self, deck: Deck | None, name: str = "n1", *, base: str = BASE.digest, slots: int = 4, **labels: str
    ) -> None:
        super().__init__(name, base=base, slots=slots, **labels)
        self.deck = deck
        self.closed: tuple[int, str] | None = None
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None

    async def join(self, token: str | None = None, port: int | None = None) -> LinkedAgent:
        """Link and say hello; returns once the hub has answered with the table, or has refused."""
        if token is None:
            assert self.deck is not None
            token = await self.deck.token("agent", self.name)
        if port is None:
            assert self.deck is not None
            port = self.deck.port
        self._socket = await connect(
            f"ws://127.0.0.1:{port}/v1/link",
            additional_headers={"authorization": f"Bearer {token}"},
            compression=None,
            ping_interval=None,
            proxy=None,
            max_size=64 << 20,
        )
        self.closed, self.welcome, seen = None, None, len(self.received)
        self._reader = asyncio.create_task(self._read())
        self._beat = asyncio.create_task(self._heartbeat())
        await self.send(self.hello())
        await until(
            lambda: self.closed or any(isinstance(m, Desired) for m in self.received[seen:]) or self._refused(),
            f"{self.name} is welcome",
        )
        return self

    async def relabelled(self, **labels: str) -> LinkedAgent:
        """Come back with other labels, which a releaser agrees to."""
        await self.leave()
        self.labels = labels
        await self.join()
        await self.deck.ok("POST", f"nodes/{self.name}/relabel", {"labels": labels})
        await until(lambda: self.closed, "the hub asks for another hello")
        await self.leave()
        return await self.join()

    async def rejoin(self, deck: Deck) -> LinkedAgent:
        """Link to a hub that was started again."""
        await self.leave()
        token = await self.deck.token("agent", self.name)
        self.deck = deck
        return await self.join(token)

    def _refused(self) -> bool:
        return self.welcome is not None and self.welcome.refuse is not None

    async def leave(self) -> None:
        """Close the link, as an agent that ends does."""
        if self._socket is not None:
            await self._socket.close()
        for task in (self._beat, self._reader):
            if task is not None:
                if task is self._beat:
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._socket = self._reader = self._beat = None

    async def send(self, message: Any) -> None:
        assert self._socket is not None
        await self._socket.send(message if isinstance(message, str) else message.model_dump_json())

    async def _heartbeat(self) -> None:
        while self.closed is None:
            await asyncio.sleep(HEARTBEAT_S)
            with contextlib.suppress(ConnectionClosed):
                await self.send(Heartbeat())

    async def _read(self) -> None:
        assert self._socket is not None
        try:
            while True:
                message = down_adapter.validate_json(await self._socket.recv())
                await self.take(message)
        except ConnectionClosed as closed:
            self.closed = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
