"""An agent or a router that is killed at any point of a load in the place of another release.

The reconciler, the taking over of an engine, the router's switch and its table are the real ones. The engine is a list.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.rules.serving.proof import Judgement, Level
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import Gap, ReleaseRef, ResponseChecks, RouteResidency, TableEntry
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.switch import Switch
from loradeck_agent.router.table import Table, read_contents
from loradeck_agent.router.wire import Cursor, EngineAt, Use
from loradeck_agent.serving import reconciler
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi, EngineVersion
from loradeck_agent.serving.engine_lifecycle import EngineLife
from loradeck_agent.serving.engines_at_router import EnginesAtRouter
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica, ReadyFile
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

BASE = "b" * 64
BUILD = EngineBuild(engine="list", device="cpu", dtype="float32")
SLOTS = 2


def ref(number: int) -> ReleaseRef:
    release = Release(tenant="acme", form=Form.ADAPTER, base=BASE, adapter=f"{number:064x}", label=f"v{number}")
    return ReleaseRef(id=release.id, release=release, label=release.label)


REFS = tuple(ref(number) for number in range(4))
LABELS = {one.id: one.label for one in REFS}
NAMES = {str(one.engine_name): one.label for one in REFS}


def entry(number: int) -> TableEntry:
    """An on-demand route of its own for each release."""
    return TableEntry(
        tenant="acme",
        route=f"r{number}",
        epoch=1,
        generation=1,
        current=ref(number),
        residency=RouteResidency.ON_DEMAND,
        gap=Gap.REFUSE,
        checks=ResponseChecks(sample=0),
    )


class Life:
    """One lifetime of the agent, which may be killed at any of its points: before and after each call or write.

    `kill_at`: the how manieth point, or its name.
    """

    def __init__(self, kill_at: int | str = 0) -> None:
        self.kill_at, self.points = kill_at, list[str]()
        self.dead = asyncio.Event()
        self.strike_at = 0
        self.strike: Callable[[], Awaitable[None]] = asyncio.Event().wait  # type: ignore[assignment]
        """At which point something else happens, and what."""

    async def point(self, name: str) -> None:
        self.points.append(name)
        if self.kill_at in (len(self.points), name):
            self.dead.set()
        if len(self.points) == self.strike_at:
            await self.strike()
        if self.dead.is_set():
            await asyncio.Event().wait()


class ListEngine(EngineApi):
    """What an engine lists, and orders that it has got and not carried out yet."""

    def __init__(self) -> None:
        super().__init__(EngineAddress(url="http://127.0.0.1:1"))
        self.listed: dict[str, str] = {}
        self.pending: list[tuple[str, str, Sequence[str]]] = []
        self.life = Life()
        self.slow = False
        """Whether what an agent orders that is killed at that is carried out later."""

    async def take_over(self) -> EngineVersion:
        return EngineVersion(boot="boot", build=BUILD, base=BASE, base_name="base", slots=SLOTS)

    async def models(self) -> dict[str, str]:
        await self.life.point("models")
        return dict(self.listed)

    async def root_of(self, name: str) -> str | None:
        return (await self.models()).get(name)

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> None:
        await self.life.point("order")
        self.pending.append((name, str(path), instead))
        if self.slow:
            await self.life.point("ordered")
        self.carry_out()
        await self.life.point("loaded")

    async def unload(self, name: str) -> None:
        await self.life.point("unload")
        self.listed.pop(name, None)
        await self.life.point("unloaded")

    def carry_out(self) -> None:
        for name, path, instead in self.pending:
            for other in instead:
                self.listed.pop(other, None)
            if name not in self.listed and len(self.listed) >= SLOTS:
                self.pending.clear()
                raise AgentError("load_refused", "all slots are taken")
            self.listed[name] = path
        self.pending.clear()


class RouterDouble:
    """The router's table and switch, as its control socket gives them to the agent."""

    def __init__(self, folder: Path, engine: ListEngine) -> None:
        self.folder, self.engine, self.silent = folder, engine, 0
        self.life = Life()
        self.start()

    def start(self) -> None:
        self.table, self.replicas = Table(self.folder), Replicas()
        self.admission = Admission(HubSilence(self.table), Stats(), ColdQueue())
        self.switch = Switch(self.table, self.admission, self.replicas)
        self.switch.start()

    async def killed(self) -> None:
        """It is killed, and started again from its table."""
        await self.close()
        self.start()

    async def close(self) -> None:
        await self.replicas.close()
        self.table.close()

    async def engines(self, slots: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        await self.life.point("tell")
        if self.silent:
            self.silent -= 1
            raise Unreachable("router", "it was stopped for a while", silent=True)
        acks = self.switch.engines(slots)
        await self.life.point("told")
        return tuple(acks)

    async def use(self, *, counts: bool = True) -> Use:
        await self.life.point("use")
        return Use(held=self.table.contents.index.held, answering={}, attempted=())

    def admits(self) -> set[str]:
        """Labels of the releases that it admits to."""
        return {LABELS[release] for pool in self.replicas for release in pool.at.ready}


class Node:
    """Engine, router, and one agent after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = StateFolder(folder / "s")
        self.engine = ListEngine()
        self.router = RouterDouble(folder / "router", self.engine)
        self.task: asyncio.Task[None] | None = None
        self.writing = threading.Lock()

    def agent(self, life: Life | None = None, others: tuple[Any, ...] = ()) -> None:
        """Starts an agent. `others`: further engines."""
        life = life or Life()
        self.engine.life = self.router.life = life
        config: Any = SimpleNamespace(name="e0", base=Path("/base"), rank_limit=None, attached=False, start="always")
        measured: Any = SimpleNamespace(note=lambda base, **took: None)
        record = ReadyFile(self.folder.root / "ready.json")
        write = record.write

        def written_by_one(releases: Any) -> None:
            with self.writing:  # the thread of a killed agent goes on here, as no thread of a killed process does
                write(releases)

        record.write = written_by_one  # type: ignore[method-assign]
        self.replica = engine = EngineReplica("gpu-01", config, self.engine, measured, record)
        keep = engine.keep_ready

        async def kept() -> None:
            await life.point("write")
            await keep()
            await life.point("written")

        engine.keep_ready = kept  # type: ignore[method-assign]
        table = DesiredTable(entries={entry(n).key: entry(n) for n in range(len(REFS))})
        double: Any = self.router
        self.missed = 0

        async def acked(acks: tuple[Ack, ...]) -> None: ...

        async def ensure(wanted: ReleaseRef, *unused: Any) -> Path:
            return self.folder.releases / wanted.label

        async def post(ack: Ack) -> bool:
            return True

        def missed() -> None:
            self.missed += 1

        at_router = EnginesAtRouter(engines=(engine, *others), router=double, acked=acked, missed=missed)
        stored = frozenset(one.release.adapter for one in REFS)
        store: Any = SimpleNamespace(ensure=ensure, stored=stored, signed=lambda *_: True, signers=frozenset())
        nothing: Any = None
        acks = AckBoard(post, frozenset({"gpu-01"}))
        self.agents = Reconciler(
            table=table, engines=(engine,), at_router=at_router, store=store, records=nothing, acks=acks
        )
        self.life = EngineLife(engine, self.folder, table, self.agents, nothing, acks)
        self.agents.router_up(True)
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        await self.life._up("boot")
        await self.agents.keep(self.replica)

    async def killed(self) -> None:
        """The agent is gone. What it had ordered is not taken back, and what it wrote is written."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        with self.writing:
            pass

    async def router_killed(self) -> None:
        """The router is killed and started again, and the agent finds it so."""
        await self.router.killed()
        self.check()
        self.agents.router_up(True)
        self.pushing = asyncio.create_task(self.agents.at_router.push())

    async def ask(self, number: int) -> None:
        """A request, as the proxy and the queue before it treat it, to its answer."""
        key = entry(number).key
        async with asyncio.timeout(60):
            while (release := self.router.admission.answers(key)) is None or LABELS[release] not in self.held():
                if release is not None:
                    self.router.switch.lost("gpu-01", release)
                    self.agents.at_router.doubt({release})
                self.wants(number)
                await asyncio.sleep(0.001)

    def held(self) -> set[str]:
        """Labels of the releases that the engine holds."""
        return {NAMES[name] for name in self.engine.listed}

    def wants(self, *numbers: int) -> None:
        """Requests wait for the releases of these routes."""
        self.agents.demand.waiting = tuple(entry(number).key for number in numbers)
        self.agents.wake()

    async def until(self, *labels: str) -> None:
        """Waits until these answer, are written down, and the engine holds nothing that the agent does not know."""
        async with asyncio.timeout(60):
            while (
                not self.replica.up
                or not {*labels} <= self.router.admits()
                or not all(self.replica.record.names(release) for release, label in LABELS.items() if label in labels)
                or {*self.engine.listed} != {*self.replica.loaded.values()}
            ):
                self.check()
                await asyncio.sleep(0.001)
        self.check()

    def check(self) -> None:
        """Nobody is admitted to a release that the engine does not hold, nor would be after a kill of the router."""
        held = self.held()
        assert self.router.admits() <= held
        on_disk = {LABELS[one] for at in read_contents(self.router.folder).engines for one in at.ready}
        assert on_disk <= held

    async def close(self) -> None:
        await self.killed()
        await self.router.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proven(*unused: Any) -> Judgement:
        return Judgement(level=Level.PROVEN)

    monkeypatch.setattr(reconciler, "verify_idle", proven)
    for name in ("LEVELS_S", "UNLOAD_RETRY_S", "SOON_S", "SHORT_S", "ROUND_S"):
        monkeypatch.setattr(reconciler, name, 0.01)


async def serving(folder: Path) -> Node:
    """A node that holds the releases of two routes, and is asked for no other."""
    node = Node(folder)
    node.router.switch.directive(Cursor(1, 1, "c" * 64), [entry(number) for number in range(len(REFS))])
    node.agent()
    node.wants(0, 1)
    await node.until("v0", "v1")
    return node


async def killed_at(node: Node, kill_at: int | str) -> bool:
    """Another agent takes over, is asked for a third release and is killed at a point. False: it has none so late."""
    await node.killed()
    life = Life(kill_at)
    node.agent(life)
    node.wants(2)
    loaded, dead = asyncio.create_task(node.until("v2")), asyncio.create_task(life.dead.wait())
    await asyncio.wait({loaded, dead}, return_when=asyncio.FIRST_COMPLETED)
    if loaded.done():
        loaded.result()
    loaded.cancel()
    dead.cancel()
    await node.killed()
    return life.dead.is_set()


@pytest.mark.parametrize("router_too", [False, True])
async def test_an_agent_is_killed_at_any_point_of_a_load_and_nobody_is_admitted_to_what_the_engine_does_not_hold(
    tmp_path: Path, router_too: bool
) -> None:
    kill_at, dead = 0, True
    while dead:
        kill_at += 1
        node = await serving(tmp_path / str(kill_at))
        dead = await killed_at(node, kill_at)
        node.check()
        if router_too:
            await node.router.killed()
            node.check()
        node.agent()
        node.wants(2, 3)
        await node.until("v2", "v3")
        await node.close()
    assert kill_at > 10


async def test_what_a_killed_agent_had_ordered_is_carried_out_after_its_successor_looked_and_no_request_fails_for_it(
    tmp_path: Path,
) -> None:
    points, dead, late = itertools.count(1), True, 0
    while dead:
        kill_at = next(points) if late else "ordered"
        node = await serving(tmp_path / str(kill_at))
        node.engine.slow = True
        dead = await killed_at(node, kill_at)
        node.engine.slow = False
        late += len(node.engine.pending)
        assert late, "an order is under way"
        node.agent()
        await node.until()
        node.engine.carry_out()
        for number in (0, 1, 3):
            await node.ask(number)
        await node.until("v3")
        await node.close()


async def test_what_nobody_knows_is_unloaded_while_the_load_that_it_takes_the_slot_of_is_tried_again(
    tmp_path: Path,
) -> None:
    node = await serving(tmp_path)
    order = node.engine.load

    async def after_a_late_one(name: str, path: Path, instead: Sequence[str] = ()) -> None:
        """Loads in the place of others, after what a killed agent had ordered in their place."""
        node.engine.load = order  # type: ignore[method-assign]
        late = REFS[2]
        node.engine.pending.append((str(late.engine_name), str(node.folder.releases / late.label), instead))
        await order(name, path, instead)

    node.engine.load = after_a_late_one  # type: ignore[method-assign]
    node.wants(3)
    await node.until("v3")
    await node.close()


async def test_a_router_is_killed_at_any_point_of_a_load_and_never_admits_to_what_the_engine_does_not_hold(
    tmp_path: Path,
) -> None:
    kill_at, struck = 0, True
    while struck:
        kill_at += 1
        node = await serving(tmp_path / str(kill_at))
        await node.killed()
        life = Life()
        node.agent(life)
        life.strike_at, life.strike = kill_at, node.router_killed
        node.wants(2)
        await node.until("v2")
        struck = kill_at <= len(life.points)
        await node.close()
    assert kill_at > 10


async def test_nothing_is_unloaded_before_the_router_has_answered_that_it_admits_nobody_to_it(tmp_path: Path) -> None:
    node = await serving(tmp_path)
    node.router.silent = 3
    node.wants(2)
    await node.until("v2")
    assert node.missed >= 3
    await node.close()


@pytest.mark.parametrize("state", [EngineState.STARTING, EngineState.STOPPED])
async def test_nothing_is_unloaded_while_the_router_is_not_told_since_another_engine_was_not_looked_at(
    tmp_path: Path, state: EngineState
) -> None:
    """An engine that runs only while something wants it is stopped for its new agent until that has the table."""
    node = await serving(tmp_path)
    await node.killed()
    starting: Any = SimpleNamespace(began=asyncio.Event(), state=state, slot=lambda: None, ready=set())
    node.agent(others=(starting,))
    node.wants(2)
    await node.until()
    for _ in range(50):
        node.check()
        await asyncio.sleep(0.001)
    assert "v2" not in node.router.admits()
    starting.began.set()
    await node.until("v2")
    await node.close()
