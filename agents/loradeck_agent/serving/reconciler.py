"""Keeps each engine at what the table names: loads what is wanted, verifies it, unloads what nothing needs.

Level-triggered: every round looks at the table, the pins and the engine as they are, and takes the next step.
It runs after a flip or beside it, never in its way. A release reaches the router's `ready` list only when its
files were verified, the engine lists it, and its canaries were answered as recorded.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loradeck.rules.serving import residency
from loradeck.rules.serving.proof import Judgement, Level
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.router.wire import ack_about
from loradeck_agent.serving.canaries import (
    DISPUTED,
    CanaryRecords,
    canaries_of,
    near,
    undisputed,
    verify_idle,
    wrong_answers,
)
from loradeck_agent.serving.engine_api import Canaries, same_folder
from loradeck_agent.serving.engines_at_router import Demand, EnginesAtRouter
from loradeck_agent.serving.load_steps import LoadFailures, StepsBeside
from loradeck_agent.serving.release_index import ReleaseIndex, without_slot
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

log = logging.getLogger(__name__)

ROUND_S = 15.0
"""A round is made at least this often."""

LEVELS_S = 5.0
"""How often at most an engine is asked how near it holds each adapter."""

SOON_S = 0.05
UNLOAD_RETRY_S = 1.0
DRAIN_S = 0.1
SHORT_S = 5.0
"""How soon to look again: an unload did not come about; the release of a slot that is needed still answers; a wanted
release has no slot."""

CLAIMS_MS = 5000
"""How long what may have a slot is taken for the same while nothing but time passes."""

PREPARED_S = 120.0
"""How long a prepared release is kept when no entry names it: its commit is on the way, or never comes."""


@dataclass(frozen=True)
class _Loaded:
    """A release that an engine holds, with the load that brought it in and the engine's lifetime.

    `began`: when that load did; None: it was held before.
    """

    boot: str
    load: int | None
    began: float | None


@dataclass(eq=False, kw_only=True)
class Reconciler:
    """Loads releases into engines, and unloads them. One `keep` task an engine; a prepare job calls `make_ready`, too.

    Attributes:
        at_router: tells the router what the engines may be asked for.
        demand: what pointers are asked for, and which releases requests wait for.
    """

    table: DesiredTable
    engines: tuple[EngineReplica, ...]
    at_router: EnginesAtRouter
    store: ReleaseStore
    records: CanaryRecords
    acks: AckBoard
    demand: Demand = field(default_factory=Demand)
    _prepared: dict[str, tuple[ReleaseRef, float]] = field(default_factory=dict)
    _evaluated: list[ReleaseRef] = field(default_factory=list)
    """Releases that an evaluation asks, which give way to everything that is served or prepared."""

    def __post_init__(self) -> None:
        self._failures = LoadFailures(self.table, self.acks)
        self._index = ReleaseIndex()
        self._claimed = dict[str, tuple[tuple[object, ...], residency.Claims]]()
        self._wakes = {engine.name: asyncio.Event() for engine in self.engines}
        self._fetching = StepsBeside(self._failures, lambda name: self._wakes[name].set())
        self._asking = StepsBeside(self._failures, lambda name: self._wakes[name].set())

    # ---- what is wanted ------------------------------------------------------------------------------------

    def router_up(self, up: bool) -> None:
        """Notes that a router is there, or is gone. Rounds wait for one."""
        if up:
            self.at_router.up.set()
            self.wake()
        else:
            self.at_router.up.clear()

    def wake(self) -> None:
        """Makes a round due, because the table, the pins or an engine changed."""
        for event in self._wakes.values():
            event.set()

    def retry_now(self) -> None:
        """Forgets how long to wait after failures: the hub is back, so what could not be fetched may be there."""
        self._failures.clear()
        self.wake()

    def _named(self) -> tuple[TableEntry, ...]:
        """Every entry, and one for each release that a job has prepared and no entry names yet, or evaluates."""
        now = time.monotonic()
        self._prepared = {release: kept for release, kept in self._prepared.items() if kept[1] > now}
        unmoved, cold = partial(TableEntry, epoch=0, generation=0, current=None), RouteResidency.ON_DEMAND
        prepared = (
            unmoved(tenant=ref.release.tenant, route="prepared", preparing=ref) for ref, _ in self._prepared.values()
        )
        evaluated = (
            unmoved(tenant=ref.release.tenant, route="evaluated", beneath=(ref,), residency=cold)
            for ref in self._evaluated
        )
        return (*self.table.named(), *prepared, *evaluated)

    def _named_index(self) -> ReleaseIndex:
        return self._index.of(self._named())

    def _naming(self, ref: ReleaseRef) -> Sequence[TableEntry]:
        return self._named_index().naming(ref.id)

    def names(self) -> set[str]:
        """Ids of the releases that the table, a pin, a prepare or an engine holds on to."""
        held = {release for engine in self.engines for release in engine.loaded}
        held |= {pin.release.id for pin in self.table.pins.values()}
        for entry in self._named():
            held |= {ref.id for ref in (entry.left, *entry.refs) if ref is not None}
        return held

    def _claims(self, engine: EngineReplica) -> residency.Claims:
        """Says what may have a slot of an engine. Finding it takes milliseconds, so it is kept for a while."""
        pins, seen, now_ms = tuple(self.table.pins.values()), self.demand.traffic, int(time.time() * 1000)
        of = (self._named(), engine.slots, engine.build.base, pins, seen, now_ms // CLAIMS_MS)
        if (known := self._claimed.get(engine.name)) is None or known[0] != of:
            named, slots, base, *_ = of
            found = residency.claims(named, base=base, pins=pins, slots=slots, now_ms=now_ms, traffic=seen)
            known = self._claimed[engine.name] = (of, found)
        return known[1]

    async def _plan(self, engine: EngineReplica, loading: Collection[str] = ()) -> residency.Residency:
        """Plans loads and unloads. `loading`: the releases whose loads are under way."""
        counts = self.demand.is_due(time.monotonic())
        use = await self.at_router.router.use(counts=counts)
        if counts:
            self.demand.count({(tenant, route): n for tenant, route, n in use.attempted}, time.monotonic())
        return residency.plan(
            self._claims(engine),
            {*engine.loaded, *loading},
            busy=(*use.held, *loading, *self._asking.releases(engine.name)),
            answering=use.answering.get(engine.name, ()),
            waiting=self.demand.waiting,
            hinted=self.demand.hinted,
            stored=self.store.stored,
        )

    def without_room(self, releases: Collection[str]) -> set[str]:
        """Returns those of some releases that no running engine here gives a slot, however long a request waits."""
        named = [(release, entry.current) for release in releases for entry in self._named_index().naming(release)]
        refs = {release: ref for release, ref in named if ref is not None and ref.id == release}
        full = set[str]()
        for engine in (engine for engine in self.engines if engine.up and refs):
            mine = {release for release, ref in refs.items() if engine.runs(ref)}
            free = residency.with_room(mine, self._claims(engine))
            full = (full | mine) - free
            refs = {release: ref for release, ref in refs.items() if release not in free}
        return full

    # ---- rounds --------------------------------------------------------------------------------------------

    async def keep(self, engine: EngineReplica) -> None:
        """Makes rounds for one engine until cancelled."""
        wake = self._wakes[engine.name]
        pause = ROUND_S
        try:
            while True:
                await self._until_due(engine, pause)
                await self.at_router.up.wait()
                wake.clear()
                pause = ROUND_S
                if engine.up:
                    try:
                        pause = min(ROUND_S, await self._round(engine))
                    except AgentError as error:
                        log.warning("%s: %s", engine.name, error)
                        pause = UNLOAD_RETRY_S
                    except Exception:
                        log.exception("a round on %s broke", engine.name)
                        pause = SHORT_S
        finally:
            self._fetching.cancel(engine.name)
            self._asking.cancel(engine.name)

    async def _until_due(self, engine: EngineReplica, seconds: float) -> None:
        """Waits for the next round: so long, until woken, or until a release that is to go answers nobody any more."""
        wake, until = self._wakes[engine.name], time.monotonic() + seconds
        while not wake.is_set() and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, DRAIN_S) if engine.draining else left):
                    await wake.wait()
            if engine.draining and not wake.is_set():
                try:
                    use = await self.at_router.router.use(counts=False)
                except AgentError:
                    return
                if not engine.draining.issubset(use.answering.get(engine.name, ())):
                    return

    async def _round(self, engine: EngineReplica) -> float:
        """Runs one round. Returns seconds until the next one is due."""
        async with engine.changing:
            if not engine.listed_in_router:
                await self._check_base(engine)
            due = await self._load_and_unload(engine)
            await self._hold(engine, idle=True)
            await self._unload_outgoing(engine)
        return max(due, SOON_S)

    async def _load_and_unload(self, engine: EngineReplica) -> float:
        """Does what is planned, and plans anew when a load has ended or something else is wanted.

        It ends with the last load, and begins no more of them once somebody waits for the engine's lock.

        Returns: seconds until it is due again.
        """
        due, wake = ROUND_S, self._wakes[engine.name]
        tried, under_way = set[str](), dict[str, asyncio.Task[float]]()
        try:
            while True:
                if wake.is_set():
                    wake.clear()
                    tried.clear()
                for release in [release for release, task in under_way.items() if task.done()]:
                    due = min(due, under_way.pop(release).result())
                for ref in self._named_index().merged_on(self.table.pins.values(), engine.build.base):
                    due = min(due, await self._attempt(engine, ref, self._admit_merged))
                plan = await self._plan(engine, under_way)
                self._alarm(engine, plan.short)
                await self._close(engine, plan.drain)
                if not await self._make_room(engine, plan.unload):
                    due = min(due, UNLOAD_RETRY_S)
                if plan.short:
                    due = min(due, SHORT_S)
                engine.draining = frozenset(plan.drain)
                for ref in plan.fetch:
                    due = min(due, self._fetch(engine, ref))
                todo = [ref for ref in (*plan.load, *self._closed(engine, plan)) if ref.id not in tried]
                if todo and engine.changing.waiting:
                    due, todo = 0.0, []
                waiting = self.demand.waiting
                needed = residency.needed(self._claims(engine), waiting)
                loading = {*under_way, *self._asking.releases(engine.name)}
                since_s = time.monotonic() - engine.unneeded_at
                for ref in residency.in_turn(todo, needed, loading=loading, waits=bool(waiting), since_s=since_s):
                    room = engine.slots - len(engine.loaded.keys() | under_way)
                    if len(under_way) < engine.api.at_once and (room > 0 or ref.id in engine.loaded):
                        tried.add(ref.id)
                        if ref.id not in needed:
                            engine.unneeded_at = time.monotonic()
                        under_way[ref.id] = asyncio.create_task(self._attempt(engine, ref, self._load_wanted))
                if not under_way:
                    return due
                if time.monotonic() >= engine.levels_until:
                    await self._hold(engine)
                woken = asyncio.create_task(wake.wait())
                await asyncio.wait({woken, *under_way.values()}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        except asyncio.CancelledError:
            for task in under_way.values():
                task.cancel()
            raise
        finally:  # also where the router gives no answer: what is being loaded is known afterwards
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    async def _hold(self, engine: EngineReplica, *, idle: bool = False) -> None:
        """Pins what is to stay in an engine's memory, and asks now and then how near it holds each adapter.

        `idle`: nothing is being loaded, so what it holds and nobody here knows is to go. That look has a time of its
        own: a load that is tried again and again, since the engine is full of what nobody knows, must not put it off.
        """
        always = self._claims(engine).always
        await engine.api.pin([name for release, name in engine.loaded.items() if release in always])
        search = idle and not engine.config.attached
        if time.monotonic() < (min(engine.levels_until, engine.unknown_until) if search else engine.levels_until):
            return  # an answer waits for the end of a step
        before = set(engine.loaded)  # a load that ends meanwhile is not in the answer
        engine.levels = levels = await engine.api.levels()
        engine.levels_until = time.monotonic() + LEVELS_S
        listed = {*(await engine.api.models() if levels is None else levels)}
        await self.lost(engine, {one for one in before & engine.loaded.keys() if engine.loaded[one] not in listed})
        if search:  # an agent that was killed has ordered it
            engine.unknown_until = engine.levels_until
            engine.outgoing += listed - {*engine.loaded.values(), *engine.outgoing}
        await self.at_router.is_told()

    async def lost(self, engine: EngineReplica, gone: set[str]) -> None:
        """Has nobody admitted to releases that others unloaded or pushed out, until they are loaded again."""
        if gone:
            log.error("engine %s: %d releases were unloaded or pushed out by others", engine.config.name, len(gone))
            engine.drop(gone)
            await engine.keep_ready()
            await self.at_router.push()
            self.wake()

    async def _attempt(
        self, engine: EngineReplica, ref: ReleaseRef, step: Callable[[EngineReplica, ReleaseRef], Awaitable[float]]
    ) -> float:
        """A step towards serving a release, unless it failed a moment ago. Returns seconds until it is due again."""
        if (pause := self._failures.pause(engine.name, ref)) > 0:
            return pause
        try:
            return await step(engine, ref)
        except AgentError as error:
            return await self._failures.note(engine.name, ref, error)

    def _fetch(self, engine: EngineReplica, ref: ReleaseRef) -> float:
        """Has a release's files fetched beside the rounds. Returns seconds until it is due again."""
        if (pause := self._failures.pause(engine.name, ref)) > 0:
            return pause
        self._fetching.begin(engine.name, ref, partial(self._files, engine, ref))
        return ROUND_S

    def _closed(self, engine: EngineReplica, plan: residency.Residency) -> list[ReleaseRef]:
        """Releases that the engine holds, to which nobody is admitted, and that keep their slots."""
        closed = engine.loaded.keys() - engine.ready - {*plan.drain, *plan.unload} - self._asking.releases(engine.name)
        refs = {ref.id: ref for entry in self._named() for ref in entry.refs if ref.id in closed} if closed else {}
        return list(refs.values())

    def failing(self) -> set[str]:
        """Releases that no engine here can answer with, and whose load has failed a moment ago."""
        return self._failures.now() - {release for engine in self.engines for release in engine.ready}

    async def _load_wanted(self, engine: EngineReplica, ref: ReleaseRef) -> float:
        if ref.id not in engine.loaded and ref.engine_name not in engine.outgoing:
            if len(engine.loaded) >= engine.slots:
                return UNLOAD_RETRY_S  # a slot comes free when the last stream on it ends
            full = len(engine.loaded) + len(engine.outgoing) >= engine.slots
            if full and not await self.at_router.is_told():
                return UNLOAD_RETRY_S  # nothing may go yet, and a full engine would refuse the load
        if not self._signed(ref):
            return self._fetch(engine, ref)
        canaries = canaries_of(self._naming(ref), ref.id)
        loaded = await self._bring_in(engine, ref)
        if engine.verified.get(ref.id) == canaries:  # it has answered them in this lifetime of the engine
            await self._let_in(engine, ref, loaded)
        else:
            self._asking.begin(engine.name, ref, partial(self._verify, engine, ref, canaries, loaded))
        return ROUND_S

    async def _admit_merged(self, engine: EngineReplica, ref: ReleaseRef) -> float:
        """Lets the router ask for merged weights: an engine has them, and where signers are asked for, one signed."""
        if ref.id not in engine.merged_ready:
            if not self._signed(ref):
                self._fetching.begin(engine.name, ref, partial(self._check_signed, engine, ref))
                return ROUND_S
            await self._check_signed(engine, ref)
            engine.merged_ready.add(ref.id)
            await self._may_be_asked(engine, ref)
        return ROUND_S

    async def _check_signed(self, engine: EngineReplica, ref: ReleaseRef) -> None:
        """Raises AgentError where a route or this node asks for signers of whole weights, and none signed them."""
        signers = self._signers(ref)
        if signers or self.store.signers:
            await self.store.check_weights(ref, engine.config.base, signers)

    def _signed(self, ref: ReleaseRef) -> bool:
        """Tells whether the hub need not be asked for a release's signatures, which may take long."""
        return self.store.signed(ref.release.signed_part, self._signers(ref))

    def _signers(self, ref: ReleaseRef) -> tuple[frozenset[str], ...]:
        return self._named_index().signers(self.table.pins.values(), ref.id)

    async def _may_be_asked(self, engine: EngineReplica, ref: ReleaseRef) -> None:
        """Makes a release that was added to an engine durable, and gives the router the engines."""
        await engine.keep_ready()
        self._failures.over(engine.name, ref.id)
        await self.at_router.push()

    def _alarm(self, engine: EngineReplica, short: tuple[ReleaseRef, ...]) -> None:
        """Raises an alarm for each served release, candidate or next way back that has no slot in this engine."""
        lines = without_slot(self.table.named(), short, self._claims(engine))
        if engine.short != lines:
            engine.short = lines
            for line in lines:
                log.error("%s: %s; %d slots", engine.name, line, engine.slots)

    async def _check_base(self, engine: EngineReplica) -> None:
        """Lists an engine with the router once its base answers as recorded (where anybody recorded it)."""
        for entry in self.table.entries.values():
            ref = ReleaseRef.of_base(entry.tenant, engine.build.base)
            if not entry.canaries or self.records.known(ref.id, engine.build.build) is None:
                continue
            verdict = await verify_idle(engine, self.records, ref, entry.canaries, ())
            if verdict.level is Level.FAILED:
                await self._fail_all(engine, verdict)
                raise AgentError(
                    verdict.code or "wrong_tokens", "the engine's base is not the one recorded", verdict.detail
                )
            break  # one tenant's canaries tell one base from another
        engine.listed_in_router = True
        await self.at_router.push()

    async def _fail_all(self, engine: EngineReplica, verdict: Judgement) -> None:
        for entry in self.table.entries.values():
            if entry.current is not None and engine.runs(entry.current):
                await self.acks.post(ack_about(entry, engine.name, AckState.FAILED, verdict.code, verdict.detail))

    # ---- steps ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def evaluating(self, ref: ReleaseRef) -> Iterator[None]:
        """Keeps a release that an evaluation asks, where nothing else needs its slot."""
        self._evaluated.append(ref)
        try:
            yield
        finally:
            self._evaluated.remove(ref)

    async def make_ready(
        self, engine: EngineReplica, ref: ReleaseRef, canaries: Canaries, *, keep: bool = True
    ) -> Judgement:
        """Fetches, verifies, loads and canaries a release now, and keeps it for a while, as prepare jobs need it.

        Without `keep` it stays no longer than nothing else needs its slot.

        A release that is ready already is judged again, so that the judgement is always a new one.

        Raises: AgentError: why it cannot be served. Nothing that is served has changed.
        """
        if keep:
            self._prepared[ref.id] = (ref, time.monotonic() + PREPARED_S)
        if ref.release.form is not Form.ADAPTER:
            await self._check_signed(engine, ref)
        elif ref.release.adapter not in self.store.stored or not self._signed(ref):
            await self._files(engine, ref)  # however slow the network is, other releases are loaded meanwhile
        async with engine.changing:
            if ref.id not in engine.ready and ref.release.form is Form.ADAPTER:
                plan = await self._plan(engine)
                for release in plan.unload:
                    if len(engine.loaded) >= engine.slots:
                        await self._make_room(engine, [release])
                if len(engine.loaded) >= engine.slots and ref.id not in engine.loaded:
                    raise AgentError(
                        "no_slot",
                        f"engine {engine.config.name} has no slot for this release",
                        f"{len(engine.loaded)} of {engine.slots} are in use"
                        + (f", {len(engine.foreign)} more hold adapters that others loaded" if engine.foreign else ""),
                        "give the engine more slots, or let routes share them (--residency on-demand)",
                    )
                loaded = await self._bring_in(engine, ref)
                return undisputed(await self._verify(engine, ref, canaries, loaded, locked=True), ref)
            verdict = await verify_idle(engine, self.records, ref, canaries, near(self._naming(ref), ref.id))
            if verdict.level is Level.FAILED:
                raise wrong_answers(verdict)
            if ref.release.form is Form.MERGED:
                engine.merged_ready.add(ref.id)
                await self._may_be_asked(engine, ref)
            return undisputed(verdict, ref)

    async def _bring_in(self, engine: EngineReplica, ref: ReleaseRef) -> _Loaded:
        """Loads a release to which nobody is admitted yet, unless the engine holds it already."""
        name = ref.engine_name
        assert name is not None, "the base alone is never loaded"
        await engine.keep_closed(ref.id)
        was_here = ref.release.adapter in self.store.stored
        began = time.monotonic()
        folder = await self._files(engine, ref)
        if not was_here:
            began = time.monotonic()
        held = ref.id in engine.loaded
        if not held:
            instead, boot = list[str](), engine.build.boot
            if name in engine.outgoing:  # it has been turned out a moment ago, and is there still
                engine.outgoing.remove(name)
            elif await self.at_router.is_told() and engine.outgoing:
                instead = [engine.outgoing.pop()]
            try:
                await engine.api.load(name, folder, instead)
            except AgentError:
                if engine.up and engine.build.boot == boot:
                    engine.outgoing += instead  # it may be there still
                raise
            engine.loads[ref.id] = engine.loads.get(ref.id, 0) + 1
        # "Loaded" is not "listed", and neither is "answers as it should".
        listed = await engine.api.root_of(name)
        if listed is None:
            raise AgentError("not_listed", "the engine took the adapter and does not list it", name)
        if not same_folder(listed, folder):
            await engine.api.unload(name)
            raise AgentError(
                "wrong_files", "the engine lists the release from another folder", f"{listed}, not {folder}"
            )
        engine.loaded[ref.id] = name
        return _Loaded(engine.build.boot, engine.loads.get(ref.id), None if held else began)

    async def _verify(
        self, engine: EngineReplica, ref: ReleaseRef, canaries: Canaries, loaded: _Loaded, *, locked: bool = False
    ) -> Judgement:
        """Asks a release that was just loaded its canaries, and lets callers in to it, or unloads it where they fail.

        `locked`: the caller holds the engine's lock.
        """
        verdict = await verify_idle(engine, self.records, ref, canaries, near(self._naming(ref), ref.id))
        if verdict.level is Level.FAILED:
            async with contextlib.nullcontext() if locked else engine.changing:
                # A prepare may have asked it as well meanwhile, and let callers in.
                if _is_held(engine, ref, loaded) and ref.id not in engine.ready:
                    await engine.api.unload(engine.loaded[ref.id])
                    engine.loaded.pop(ref.id, None)
            raise wrong_answers(verdict)
        # Also where they tell it from nothing: asked again they would say no more.
        await self._let_in(engine, ref, loaded, None if verdict.code == DISPUTED else canaries)
        log.info("%s holds %s %s (%s)", engine.name, ref.release.tenant, ref.label or ref.id[:6], verdict.level.value)
        return verdict

    async def _let_in(
        self, engine: EngineReplica, ref: ReleaseRef, loaded: _Loaded, answered: Canaries | None = None
    ) -> None:
        """Has the router admit callers to a release, unless the engine has ended or lost it since it was loaded.

        `answered`: canaries that it was asked since, and that are not asked again in this lifetime of the engine.
        """
        if not _is_held(engine, ref, loaded):
            raise AgentError("engine_down", "the engine has lost the release since it was loaded", engine.name)
        if answered is not None:
            engine.verified[ref.id] = answered
        if loaded.began is not None:
            engine.measured.note(engine.build.base, load=time.monotonic() - loaded.began)
        engine.ready.add(ref.id)
        await self._may_be_asked(engine, ref)

    async def _files(self, engine: EngineReplica, ref: ReleaseRef) -> Path:
        """The folder of a release's verified files, fetched where they are not here."""
        base, was_here = engine.build.base, ref.release.adapter in self.store.stored
        began, config = time.monotonic(), engine.config
        folder = await self.store.ensure(ref, base, config.base, config.rank_limit, self._signers(ref))
        if not was_here:
            engine.measured.note(base, fetch=time.monotonic() - began)
        return folder

    async def _close(self, engine: EngineReplica, releases: Collection[str]) -> None:
        """From here on no request is admitted to these releases.

        That is not made durable: an agent that is started again finds them as they were, if the engine has them still.
        """
        if not engine.ready.isdisjoint(releases):
            engine.ready.difference_update(releases)
            await self.at_router.push()

    async def _make_room(self, engine: EngineReplica, releases: Collection[str]) -> bool:
        """Gives the places of releases to the next loads. False: one still answers somebody, and is tried again."""
        if not releases:
            return True
        await self._close(engine, releases)
        if not await self.at_router.is_told():
            return False
        use = await self.at_router.router.use(counts=False)
        kept = {*use.held, *use.answering.get(engine.name, ())}
        going = [one for one in releases if one not in kept and one in engine.loaded]  # it may have ended meanwhile
        engine.outgoing += [engine.loaded.pop(release) for release in going]
        engine.evictions += len(going)
        return kept.isdisjoint(releases)

    async def _unload_outgoing(self, engine: EngineReplica) -> None:
        """Unloads what nothing was loaded instead of."""
        while engine.outgoing and await self.at_router.is_told():
            await engine.api.unload(engine.outgoing[-1])
            engine.outgoing.pop()


def _is_held(engine: EngineReplica, ref: ReleaseRef, loaded: _Loaded) -> bool:
    """Tells whether an engine holds a release, still by this load."""
    return ref.id in engine.loaded and (engine.build.boot, engine.loads.get(ref.id)) == (loaded.boot, loaded.load)
