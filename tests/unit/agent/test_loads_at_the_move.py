"""A move to a release that is not loaded starts its load at once, whatever else there is to load."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.rules.serving import residency
from loradeck.rules.serving.proof import Judgement, Level
from loradeck.rules.serving.residency import Residency
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.router.wire import Use, ack_about
from loradeck_agent.serving import reconciler as module
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi
from loradeck_agent.serving.engines_at_router import EnginesAtRouter
from loradeck_agent.serving.load_steps import BESIDE, RETRY_FAULT_S
from loradeck_agent.serving.reconciler import Reconciler, _Loaded
from loradeck_agent.serving.replica import CountingLock, EngineReplica, ReadyFile, ReadyReleases
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable


def ref(number: int) -> ReleaseRef:
    release = Release(tenant="acme", form=Form.ADAPTER, base="b" * 64, adapter=f"{number:064x}", label=f"v{number}")
    return ReleaseRef(id=release.id, release=release, label=release.label)


def entry(route: int, wanted: ReleaseRef, generation: int) -> TableEntry:
    return TableEntry(tenant="acme", route=f"r{route}", epoch=1, generation=generation, current=wanted)


def always(*_: object) -> bool:
    return True


async def nothing(*unused: object) -> None: ...


class Bench(Reconciler):
    """A reconciler whose engine loads what it is told, and notes in which order."""

    def __init__(self) -> None:
        self.engine: Any = SimpleNamespace(
            name="gpu-01",
            config=SimpleNamespace(name="e0", attached=False),
            changing=CountingLock(),
            build=SimpleNamespace(base="b" * 64, boot="boot"),
            slots=40,
            listed_in_router=True,
            short=(),
            loaded={},
            outgoing=[],
            levels_until=math.inf,
            unknown_until=math.inf,
            unneeded_at=math.inf,
            api=EngineApi(EngineAddress()),
            ready=set(),
            draining=frozenset(),
            keep_closed=nothing,
        )
        router: Any = None
        super().__init__(
            table=DesiredTable(),
            engines=(self.engine,),
            at_router=EnginesAtRouter(engines=(self.engine,), router=router, acked=router, missed=router),
            store=router,
            records=router,
            acks=AckBoard(router, frozenset()),
        )
        self.at_router.told = frozenset()
        self.loaded: list[str] = []
        self.move: TableEntry | None = None
        self.fails: set[str] = set()
        self.reads = False
        """Whether a load looks at its files first."""

    def desire(self, *entries: TableEntry) -> None:
        """The hub's entries have come, as `RouterSync` hands them on."""
        for one in entries:
            self.table.entries.pop(one.key, None)
            self.table.entries[one.key] = one
        self.wake()

    async def _plan(self, engine: Any, loading: Collection[str] = ()) -> Residency:
        named = [one.current for one in self.table.named() if one.current is not None]
        return Residency(
            load=tuple(one for one in named if one.id not in {*engine.loaded, *loading}), unload=(), short=()
        )

    async def _load_wanted(self, engine: Any, wanted: ReleaseRef) -> float:
        if self.reads:
            await self._files(engine, wanted)
        if wanted.label in self.fails:
            raise AgentError("manifest_mismatch", "the files are not those of the manifest")
        self.loaded.append(wanted.label)
        engine.loaded[wanted.id] = wanted.label
        if self.move is not None:
            self.desire(self.move)
            self.move = None
        return module.ROUND_S


async def rounds(bench: Bench, labels: set[str]) -> None:
    """Rounds, as `keep` makes them, until these are loaded."""
    async with asyncio.timeout(60):
        while not labels <= set(bench.loaded):
            bench._wakes["gpu-01"].clear()
            await bench._round(bench.engine)
            await asyncio.sleep(0)


async def test_a_move_that_comes_while_much_is_loaded_is_loaded_next() -> None:
    bench = Bench()
    bench.desire(*(entry(number, ref(number), 1) for number in range(20)))
    bench.move = entry(3, ref(99), 2)
    await rounds(bench, {"v99"})
    assert bench.loaded.index("v99") == 1
    await rounds(bench, {f"v{number}" for number in range(20) if number != 3})


async def test_while_requests_wait_what_nobody_waits_for_is_loaded_one_at_a_time() -> None:
    bench, together, under_way = Bench(), list[int](), set[str]()
    asked = {number: entry(number, ref(number), 1) for number in range(12)}
    on_demand = {n: one.model_copy(update={"residency": RouteResidency.ON_DEMAND}) for n, one in asked.items()}
    waiting = [on_demand[number] for number in (7, 3, 9)]

    async def load(engine: Any, wanted: ReleaseRef) -> float:
        under_way.add(wanted.id)
        await asyncio.sleep(0)
        together.append(len(under_way - {one.current.id for one in waiting if one.current is not None}))
        under_way.discard(wanted.id)
        return await Bench._load_wanted(bench, engine, wanted)

    bench._load_wanted = load  # type: ignore[method-assign]
    bench.engine.api = SimpleNamespace(
        at_once=4, pin=EngineApi(EngineAddress()).pin, levels=EngineApi(EngineAddress()).levels
    )
    bench.desire(*on_demand.values())
    bench.demand.waiting = tuple(one.key for one in waiting)
    await rounds(bench, {f"v{number}" for number in range(12)})
    assert bench.loaded[:3] == ["v7", "v3", "v9"], "in the order of their turns"
    assert max(together) == 1
    bench.demand.waiting = ()
    bench.loaded.clear()
    together.clear()
    bench.engine.loaded.clear()
    await rounds(bench, {f"v{number}" for number in range(12)})
    assert max(together) > 1, "all at once where nobody waits"


async def test_what_nobody_waits_for_is_loaded_though_requests_for_cold_releases_never_end() -> None:
    bench, on_demand = Bench(), {"residency": RouteResidency.ON_DEMAND}
    *asked, prior = (entry(number, ref(number), 1).model_copy(update=on_demand) for number in (0, 1, 2, 50))

    async def load(engine: Any, wanted: ReleaseRef) -> float:
        await Bench._load_wanted(bench, engine, wanted)
        if len(bench.loaded) >= 20:
            bench.demand.waiting = ()
        elif wanted != prior.current:
            del engine.loaded[wanted.id]  # it was turned out for another one, and is asked for again
            bench.wake()
        return module.ROUND_S

    bench._load_wanted = load  # type: ignore[method-assign]
    bench.desire(*asked, prior)
    bench.demand.waiting = tuple(one.key for one in asked)
    bench.engine.unneeded_at = 0.0
    await rounds(bench, {"v50"})
    assert "v50" in bench.loaded[:20]


async def test_a_release_that_failed_to_load_is_tried_again_at_the_move_to_it() -> None:
    bench = Bench()
    bench.fails = {"v1"}
    bench.desire(entry(0, ref(1), 1))
    await bench._round(bench.engine)
    bench._failures.kept["gpu-01", ref(1).id].retry_at += RETRY_FAULT_S
    bench.fails.clear()
    await bench._round(bench.engine)
    assert bench.loaded == [], "nothing has moved: it waits"
    bench.desire(entry(0, ref(1), 2))
    await bench._round(bench.engine)
    assert bench.loaded == ["v1"]


async def test_a_flip_that_the_routers_disk_refused_is_asked_for_again() -> None:
    missed = list[str]()
    ack = ack_about(entry(0, ref(1), 1), "gpu-01", AckState.FLIPPED)

    async def engines(slots: Any) -> tuple[Ack, ...]:
        return (ack,)

    async def acked(acks: tuple[Ack, ...]) -> None: ...

    router: Any = SimpleNamespace(engines=engines)
    at_router = EnginesAtRouter(engines=(), router=router, acked=acked, missed=lambda: missed.append(""))
    at_router.up.set()
    assert await at_router.push()
    assert missed == []
    ack = ack.model_copy(update={"state": AckState.FAILED, "code": "table_write_failed"})
    assert await at_router.push()
    assert missed == [""]


async def test_a_release_is_loaded_and_timed_once_and_let_in_again_without_a_load_or_a_canary() -> None:
    bench, calls, wanted = Bench(), list[str](), ref(1)
    folder = Path("/releases/v1")

    async def ensure(*unused: Any) -> Path:
        return folder

    async def load(name: str, path: Path, instead: Sequence[str]) -> None:
        calls.append("load")

    async def root_of(name: str) -> str:
        return str(folder)

    async def nothing(*unused: Any) -> None: ...

    bench.engine.__dict__.update(
        config=SimpleNamespace(base=Path("/base"), rank_limit=None, attached=False),
        api=SimpleNamespace(load=load, root_of=root_of),
        measured=SimpleNamespace(note=lambda base, **took: calls.append(*took)),
        loads={},
        verified={wanted.id: ()},
        keep_ready=nothing,
    )
    bench.store = SimpleNamespace(ensure=ensure, stored={wanted.release.adapter}, signed=always)  # type: ignore[assignment]
    for _ in range(2):
        await Reconciler._load_wanted(bench, bench.engine, wanted)
        assert bench.engine.ready == {wanted.id}
        bench.engine.ready.clear()  # its slot was needed, and is no more
    assert (calls, bench.engine.loads) == (["load", "load"], {wanted.id: 1}), "one load, and one duration"


async def test_while_a_promote_fetches_its_release_others_are_loaded_on_that_engine() -> None:
    bench, fetching, fetched = Bench(), asyncio.Event(), asyncio.Event()

    async def ensure(*unused: Any) -> Path:
        fetching.set()
        await fetched.wait()
        raise AgentError("manifest_mismatch", "the files are not those of the manifest")

    bench.store = SimpleNamespace(ensure=ensure, stored=frozenset(), signed=always)  # type: ignore[assignment]
    bench.engine.config = SimpleNamespace(base=Path("/base"), rank_limit=None, attached=False)
    bench.desire(entry(0, ref(1), 1))
    promote = asyncio.create_task(bench.make_ready(bench.engine, ref(2), ()))
    await fetching.wait()
    await rounds(bench, {"v1"})
    fetched.set()
    with pytest.raises(AgentError, match="not those of the manifest"):
        await promote


async def test_while_a_round_fetches_a_release_its_engine_is_free_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, fetching, fetched = Bench(), asyncio.Event(), asyncio.Event()
    stored = {ref(2).release.adapter}

    async def ensure(wanted: ReleaseRef, *unused: Any) -> Path:
        if wanted.release.adapter not in stored:
            fetching.set()
            await fetched.wait()
            stored.add(wanted.release.adapter)
        return Path("/releases")

    async def use(*, counts: bool = True) -> Use:
        return Use(held=(), answering={}, attempted=())

    bench.store = SimpleNamespace(ensure=ensure, stored=stored, signed=always)  # type: ignore[assignment]
    bench.at_router.router, bench.reads = SimpleNamespace(use=use), True  # type: ignore[assignment]
    bench.engine.config = SimpleNamespace(base=Path("/base"), rank_limit=None, attached=False)
    bench.engine.measured = SimpleNamespace(note=lambda base, **took: None)
    monkeypatch.setattr(Bench, "_plan", Reconciler._plan)
    bench.desire(entry(0, ref(1), 1), entry(1, ref(2), 1))
    async with asyncio.timeout(60):
        await bench._round(bench.engine)
        await fetching.wait()
        assert bench.loaded == ["v2"], "its files are here"
        assert not bench.engine.changing.locked(), "a promote, say, gets on meanwhile"
        fetched.set()
        await bench._wakes["gpu-01"].wait()
        await rounds(bench, {"v1"})


async def test_an_engine_that_loads_several_at_a_time_is_told_as_many_as_it_has_slots_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, under_way, most, go = Bench(), set[str](), list[int](), asyncio.Event()

    async def load(self: Bench, engine: Any, wanted: ReleaseRef) -> float:
        under_way.add(wanted.label)
        most.append(len(under_way))
        await go.wait()
        under_way.discard(wanted.label)
        engine.loaded[wanted.id] = wanted.label
        self.loaded.append(wanted.label)
        return module.ROUND_S

    monkeypatch.setattr(Bench, "_load_wanted", load)
    bench.engine.api = SimpleNamespace(at_once=3, pin=bench.engine.api.pin, levels=bench.engine.api.levels)
    bench.engine.slots = 5
    bench.desire(*(entry(number, ref(number), 1) for number in range(5)))
    bench._wakes["gpu-01"].clear()
    making = asyncio.create_task(bench._round(bench.engine))
    async with asyncio.timeout(60):
        for _ in range(20):
            await asyncio.sleep(0)
        go.set()
        await making
    assert (max(most), len(bench.loaded)) == (3, 5)


async def test_while_a_release_is_asked_its_canaries_others_are_loaded_and_one_that_the_engine_has_lost_is_not_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, asked, answered = Bench(), list[str](), asyncio.Event()
    folders: dict[str, str] = {}

    async def ensure(wanted: ReleaseRef, *unused: Any) -> Path:
        return Path("/releases") / wanted.label

    async def use(*, counts: bool = True) -> Use:
        return Use(held=(), answering={}, attempted=())

    async def load(name: str, path: Path, instead: Sequence[str]) -> None:
        folders[name] = str(path)

    async def root_of(name: str) -> str | None:
        return folders.get(name)

    async def verify(engine: Any, records: Any, wanted: ReleaseRef, *unused: Any) -> Judgement:
        asked.append(wanted.label)
        await answered.wait()
        return Judgement(level=Level.PROVEN)

    async def nothing(*unused: Any) -> None: ...

    bench.engine.__dict__.update(
        config=SimpleNamespace(base=Path("/base"), rank_limit=None, attached=False),
        api=SimpleNamespace(load=load, root_of=root_of, pin=nothing, levels=nothing, at_once=1),
        measured=SimpleNamespace(note=lambda base, **took: None),
        loads={},
        verified={},
        keep_ready=nothing,
        slots=8,
    )
    stored = {ref(number).release.adapter for number in range(6)}
    bench.store = SimpleNamespace(ensure=ensure, stored=stored, signed=always)  # type: ignore[assignment]
    bench.at_router.router = SimpleNamespace(use=use)  # type: ignore[assignment]
    monkeypatch.setattr(Bench, "_plan", Reconciler._plan)
    monkeypatch.setattr(Bench, "_load_wanted", Reconciler._load_wanted)
    monkeypatch.setattr(module, "verify_idle", verify)
    bench.desire(*(entry(number, ref(number), 1) for number in range(6)))
    async with asyncio.timeout(60):
        for _ in range(3):
            bench._wakes["gpu-01"].clear()
            await bench._round(bench.engine)
            await asyncio.sleep(0)
        assert len(asked) == BESIDE, "so many at a time"
        assert len(bench.engine.loaded) == 6, "the others are loaded meanwhile"
        assert not bench.engine.changing.locked()
        lost = next(wanted for number in range(6) if (wanted := ref(number)).label == asked[0])
        del bench.engine.loaded[lost.id]
        answered.set()
        while len(bench.engine.ready) < 5:
            bench._wakes["gpu-01"].clear()
            await bench._round(bench.engine)
            await asyncio.sleep(0)
    assert lost.id not in bench.engine.ready
    assert ("gpu-01", lost.id) in bench._failures.kept


@pytest.mark.parametrize(
    ("meanwhile", "unloaded", "noted"),
    [
        ("nothing", ["v1"], True),
        ("let in", [], True),
        ("loaded again", [], False),
        ("restarted", [], False),
    ],
)
async def test_only_the_load_that_was_verified_is_unloaded_or_noted_as_verified(
    monkeypatch: pytest.MonkeyPatch, meanwhile: str, unloaded: list[str], noted: bool
) -> None:
    bench, wanted, calls = Bench(), ref(1), list[str]()
    engine = bench.engine
    verdicts = [Level.PROVEN, Level.FAILED]

    async def verify(*unused: Any) -> Judgement:
        if meanwhile == "let in":
            engine.ready.add(wanted.id)
        elif meanwhile == "loaded again":
            engine.loads[wanted.id] += 1
        elif meanwhile == "restarted":
            engine.build = SimpleNamespace(base="b" * 64, boot="next")
        return Judgement(level=verdicts.pop())

    async def unload(name: str) -> None:
        calls.append(name)

    async def nothing(*unused: Any) -> None: ...

    monkeypatch.setattr(module, "verify_idle", verify)
    while verdicts:
        engine.__dict__.update(
            api=SimpleNamespace(unload=unload),
            build=SimpleNamespace(base="b" * 64, boot="boot"),
            loaded={wanted.id: "v1"},
            loads={wanted.id: 1},
            verified={},
            ready=set(),
            keep_ready=nothing,
        )
        with contextlib.suppress(AgentError):
            await bench._verify(engine, wanted, (), _Loaded("boot", 1, None))
    assert calls == unloaded
    assert (wanted.id in engine.verified, wanted.id in engine.ready) == (noted, noted)


def test_what_has_no_room_is_found_by_looking_at_all_entries_once_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, looks, look = Bench(), list[int](), residency.claims

    def counted(*asked: Any, **how: Any) -> residency.Claims:
        looks.append(1)
        return look(*asked, **how)

    monkeypatch.setattr(residency, "claims", counted)
    bench.engine.__dict__.update(up=True, slots=4, runs=lambda wanted: True)
    for number in range(4):
        bench.table.entries["acme", f"r{number}"] = entry(number, ref(number), 1)
    waits = entry(9, ref(9), 1).model_copy(update={"residency": RouteResidency.ON_DEMAND})
    bench.table.entries[waits.key] = waits
    for _ in range(2):
        assert bench.without_room({ref(number).id for number in (0, 1, 9)}) == {ref(9).id}
    assert len(looks) == 1, "nothing was another"
    bench.table.entries.popitem()
    assert bench.without_room({ref(9).id}) == set()
    bench.table.entries[waits.key] = waits
    bench.engine.slots = 5
    assert bench.without_room({ref(9).id}) == set()
    assert len(looks) == 2


async def test_the_hub_is_asked_for_signatures_beside_the_rounds_and_not_under_the_engines_lock() -> None:
    bench, wanted = Bench(), ref(1)
    known, asked = set[str](), asyncio.Event()

    class Store:
        signers: frozenset[str] = frozenset()
        stored = frozenset({wanted.release.adapter})

        def signed(self, subject: str, signers: Any) -> bool:
            return subject in known

        async def ensure(self, one: ReleaseRef, *_: object) -> Path:
            asked.set()
            known.add(str(one.release.adapter))
            return Path()

    loaded = list[ReleaseRef]()

    async def bring_in(engine: Any, one: ReleaseRef) -> _Loaded:
        loaded.append(one)
        raise AgentError("not_listed", "it was loaded")

    bench.store, bench._bring_in = Store(), bring_in  # type: ignore[assignment, method-assign]
    bench.engine.config = SimpleNamespace(base=Path(), rank_limit=None, attached=False)
    async with bench.engine.changing:
        assert await Reconciler._load_wanted(bench, bench.engine, wanted) == module.ROUND_S
        await asyncio.wait_for(asked.wait(), 60)
        assert loaded == []
        with pytest.raises(AgentError, match="it was loaded"):
            await Reconciler._load_wanted(bench, bench.engine, wanted)
    assert loaded == [wanted]


@pytest.mark.parametrize("meanwhile", ["nothing", "restarted"])
async def test_what_a_failed_load_was_to_replace_is_unloaded_unless_the_engine_began_anew(meanwhile: str) -> None:
    bench, unloaded = Bench(), list[str]()

    async def ensure(*unused: Any) -> Path:
        return Path("/releases/v1")

    async def load(name: str, path: Path, instead: Sequence[str]) -> None:
        if meanwhile == "restarted":
            bench.engine.build = SimpleNamespace(base="b" * 64, boot="next")
        raise AgentError("load_refused", "the engine refused it")

    async def unload(name: str) -> None:
        unloaded.append(name)

    bench.engine.__dict__.update(
        config=SimpleNamespace(base=Path("/base"), rank_limit=None, attached=False),
        api=SimpleNamespace(load=load, unload=unload),
        up=True,
        outgoing=["acme-v9"],
    )
    bench.store = SimpleNamespace(ensure=ensure, stored={ref(1).release.adapter})  # type: ignore[assignment]
    with pytest.raises(AgentError, match="refused it"):
        await bench._bring_in(bench.engine, ref(1))
    await bench._unload_outgoing(bench.engine)
    assert unloaded == ([] if meanwhile == "restarted" else ["acme-v9"])


async def test_a_load_under_way_is_waited_for_where_the_router_gives_no_answer() -> None:
    bench, begun, go, ended = Bench(), asyncio.Event(), asyncio.Event(), list[str]()
    plans = iter([Residency(load=(ref(1),), unload=(), short=())])

    async def plan(engine: Any, loading: Collection[str] = ()) -> Residency:
        found = next(plans, None)
        if found is None:
            go.set()
            raise AgentError("unreachable", "the router gives no answer")
        return found

    async def load(engine: Any, wanted: ReleaseRef) -> float:
        begun.set()
        await go.wait()
        ended.append(wanted.label)
        return module.ROUND_S

    bench._plan, bench._load_wanted = plan, load  # type: ignore[method-assign]
    making = asyncio.create_task(bench._round(bench.engine))
    await begun.wait()
    bench.wake()
    async with asyncio.timeout(60):
        with pytest.raises(AgentError, match="no answer"):
            await making
    assert ended == ["v1"]


class ListingApi(EngineApi):
    """An engine that loads one adapter at a time, and lists what it was told to load."""

    def __init__(self) -> None:
        super().__init__(EngineAddress())
        self.listed: dict[str, str] = {}

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> None:
        for other in instead:
            await self.unload(other)
        await asyncio.sleep(0)
        self.listed[name] = str(path)

    async def unload(self, name: str) -> None:
        self.listed.pop(name, None)

    async def root_of(self, name: str) -> str | None:
        return self.listed.get(name)


def at_an_engine(monkeypatch: pytest.MonkeyPatch, plans: list[Residency]) -> tuple[Bench, ListingApi]:
    """A bench with this engine, which holds three releases in three slots."""
    bench, api = Bench(), ListingApi()

    async def ensure(wanted: ReleaseRef, *unused: Any) -> Path:
        return Path("/releases") / wanted.label

    async def use(*, counts: bool = True) -> Use:
        return Use(held=(), answering={}, attempted=())

    async def nothing(*unused: Any) -> None: ...

    async def plan(engine: Any, loading: Collection[str] = ()) -> Residency:
        return plans.pop(0) if plans else Residency(load=(), unload=(), short=())

    refs = [ref(number) for number in range(8)]
    names = {one.id: str(one.engine_name) for one in refs[:3]}
    api.listed = {names[one.id]: f"/releases/{one.label}" for one in refs[:3]}
    bench.engine.__dict__.update(
        config=SimpleNamespace(base=Path("/base"), rank_limit=None, name="e0", attached=False),
        api=api,
        measured=SimpleNamespace(note=lambda base, **took: None),
        loads={},
        verified={one.id: () for one in refs},
        keep_ready=nothing,
        slots=3,
        loaded=dict(names),
        ready=set(names),
        evictions=0,
        foreign=set(),
    )
    stored = {one.release.adapter for one in refs}
    bench.store = SimpleNamespace(ensure=ensure, stored=stored, signed=always)  # type: ignore[assignment]
    bench.at_router.router = SimpleNamespace(use=use)  # type: ignore[assignment]
    bench.at_router.push = nothing  # type: ignore[assignment, method-assign]
    bench._plan = plan  # type: ignore[method-assign]
    monkeypatch.setattr(Bench, "_load_wanted", Reconciler._load_wanted)
    return bench, api


def todo(load: Collection[int] = (), unload: Collection[int] = ()) -> Residency:
    return Residency(load=tuple(map(ref, load)), unload=tuple(ref(number).id for number in unload), short=())


async def test_a_release_that_is_wanted_again_while_its_place_is_given_away_stays_in_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, api = at_an_engine(monkeypatch, [todo([3, 4, 5], [0, 1, 2]), todo([0])])
    async with asyncio.timeout(60):
        await bench._round(bench.engine)
    assert {name for release, name in bench.engine.loaded.items() if release in bench.engine.ready} <= set(api.listed)
    assert (len(api.listed), bench.engine.outgoing) == (len(bench.engine.loaded), [])


class Kept(ReadyFile):
    """The file of an engine's releases; `written` is what each write left in it."""

    def __init__(self, path: Path, boot: str, releases: Collection[str]) -> None:
        super().__init__(path)
        super().write(ReadyReleases(boot=boot, loaded=tuple(sorted(releases))))
        self.written: list[set[str]] = []

    def write(self, releases: ReadyReleases) -> None:
        self.written += [set(releases.loaded)] if releases != self._now else []
        super().write(releases)


def with_a_record(bench: Bench, path: Path) -> Kept:
    """Gives a bench's engine the file that it really has."""
    engine = bench.engine
    kept = Kept(path, "boot", engine.ready)
    engine.__dict__.update(
        record=kept, recording=asyncio.Lock(), version=SimpleNamespace(boot="boot"), merged_ready=set()
    )
    engine.keep_ready = partial(EngineReplica.keep_ready, engine)
    engine.keep_closed = partial(EngineReplica.keep_closed, engine)
    return kept


async def test_a_load_in_the_place_of_another_takes_one_durable_write_and_two_pushes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench, api = at_an_engine(monkeypatch, [todo([3], [0])])
    kept, pushed = with_a_record(bench, tmp_path / "ready.json"), list[set[str]]()
    two, three, four = (ref(number).id for number in (1, 2, 3))

    async def push() -> bool:
        pushed.append(set(bench.engine.ready))
        assert (str(ref(0).engine_name) in api.listed) == (four not in bench.engine.ready), "nobody asks what has gone"
        return True

    bench.at_router.push = push  # type: ignore[method-assign]
    await bench._round(bench.engine)
    assert (kept.written, pushed) == ([{two, three, four}], [{two, three}, {two, three, four}])


async def test_a_release_that_is_judged_anew_is_not_in_the_record_before_it_has_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench, _ = at_an_engine(monkeypatch, [])
    kept, wanted = with_a_record(bench, tmp_path / "ready.json"), ref(0)
    await bench._close(bench.engine, [wanted.id])
    assert kept.names(wanted.id), "where the agent ends now, the next one finds it as it was"
    monkeypatch.setattr(module, "verify_idle", proven)
    bench._verify = nothing  # type: ignore[method-assign, assignment]
    await bench._bring_in(bench.engine, wanted)
    assert kept.written == [{ref(1).id, ref(2).id}]


async def test_while_a_release_that_is_to_go_answers_nothing_is_planned_anew() -> None:
    bench, asked = Bench(), list[frozenset[str]]()
    bench.engine.draining = frozenset({"a", "b"})
    answering = [("a", "b"), ("a", "b", "c"), ("b",)]

    async def use(*, counts: bool = True) -> Use:
        assert not counts
        asked.append(frozenset(answering[len(asked)]))
        return Use(held=(), answering={"gpu-01": answering[len(asked) - 1]}, attempted=())

    bench.at_router.router = SimpleNamespace(use=use)  # type: ignore[assignment]
    async with asyncio.timeout(60):
        await bench._until_due(bench.engine, 60.0)
    assert len(asked) == 3, "one of them answers nobody any more"
    bench.wake()
    await bench._until_due(bench.engine, 60.0)
    assert len(asked) == 3


async def test_a_promote_turns_out_no_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, api = at_an_engine(monkeypatch, [todo([3, 4], [0, 1])])
    monkeypatch.setattr(module, "verify_idle", proven)
    async with asyncio.timeout(60):
        await bench.make_ready(bench.engine, ref(3), ())
    assert (set(bench.engine.loaded), bench.engine.outgoing) == ({ref(number).id for number in (1, 2, 3)}, [])
    assert len(api.listed) == 3


async def proven(*unused: Any) -> Judgement:
    return Judgement(level=Level.PROVEN)


async def test_a_move_to_merged_weights_during_a_load_waits_for_no_other_load() -> None:
    bench, admitted, go, begun = Bench(), list[str](), asyncio.Event(), asyncio.Event()
    release = Release(tenant="acme", form=Form.MERGED, base="c" * 64, adapter="d" * 64, merged="b" * 64, label="m1")
    merged = ReleaseRef(id=release.id, release=release, label="m1")

    async def admit(engine: Any, wanted: ReleaseRef) -> float:
        admitted.append(wanted.label)
        go.set()
        return module.ROUND_S

    async def load(engine: Any, wanted: ReleaseRef) -> float:
        begun.set()
        await go.wait()
        engine.loaded[wanted.id] = wanted.label
        return module.ROUND_S

    async def plan(engine: Any, loading: Collection[str] = ()) -> Residency:
        return todo([] if ref(1).id in {*engine.loaded, *loading} else [1])

    bench._admit_merged, bench._load_wanted, bench._plan = admit, load, plan  # type: ignore[method-assign]
    making = asyncio.create_task(bench._round(bench.engine))
    async with asyncio.timeout(60):
        await begun.wait()
        bench.desire(entry(1, merged, 2))
        await making
    assert set(admitted) == {"m1"}


async def test_while_somebody_waits_for_the_engine_no_further_load_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, begun, go = Bench(), list[str](), asyncio.Event()

    async def load(engine: Any, wanted: ReleaseRef) -> float:
        begun.append(wanted.label)
        await go.wait()
        engine.loaded[wanted.id] = wanted.label
        return module.ROUND_S

    bench._load_wanted = load  # type: ignore[method-assign]
    bench.desire(entry(0, ref(0), 1), entry(1, ref(1), 1))
    making = asyncio.create_task(bench._round(bench.engine))
    waiting = asyncio.create_task(bench.engine.changing.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    async with asyncio.timeout(60):
        assert await making == module.SOON_S
        await waiting
    assert len(begun) == 1


async def test_what_is_loaded_while_an_engine_says_what_it_holds_is_not_taken_for_lost() -> None:
    bench = Bench()

    async def levels() -> dict[str, Any]:
        bench.engine.loaded[ref(2).id] = "acme-v2"  # it answers with how things stood before
        return {"acme-v1": None}

    async def pin(names: Any) -> None: ...

    bench.engine.loaded = {ref(1).id: "acme-v1"}
    bench.engine.api = SimpleNamespace(levels=levels, pin=pin)
    bench.engine.levels_until = 0.0
    await bench._hold(bench.engine)
    assert bench.engine.loaded.keys() == {ref(1).id, ref(2).id}
