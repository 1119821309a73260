"""The lives of the engines of this node: which of them run, and each from its start to its end.

The rules choose from the table which engines run. One whose base is not wanted any more is stopped before another is
started: memory may not hold both. An engine is started or adopted, taken over when it answers, void when it ends. It is
asked every two seconds, whatever else is asked of it, whether it answers: a process that hangs (a stopped one, a GPU
call that does not return) does not end, so its supervisor sees nothing.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from loradeck.rules.serving.engines import Engine, to_run, wanted_bases
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import JobAssignment, PrepareSpec
from loradeck.schemas.link import Replica
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck.schemas.telemetry import Gpu
from loradeck_agent.host.engine_config import EmbeddedEngine, EngineConfig, VllmEngine
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.host.supervisor import Program, Supervised, Watched
from loradeck_agent.router.wire import ack_about
from loradeck_agent.serving.proof import Prover
from loradeck_agent.serving.reconciler import PREPARED_S, Reconciler
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.serving.vllm.command import vllm_argv, vllm_environment
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

log = logging.getLogger(__name__)

ENGINE_READY_S = 900.0
"""Seconds after which an engine that has not started is given up."""

END_S = 20.0
"""Between SIGTERM and SIGKILL, for an engine that nothing wants any more."""

DRAIN_S = 60.0
"""How long answers under way may hold up the end of an engine."""

DRAIN_LOOK_S = 0.1

COMPARE_WAIT_S = 1.0
"""How long a look at an attached engine's list waits for loads that are under way; else it is made the next time."""


@dataclass(eq=False)
class EngineLife:
    """Runs one engine, and gives router, proofs and acknowledgements its starts and ends."""

    engine: EngineReplica
    _folder: StateFolder
    _table: DesiredTable
    _reconciler: Reconciler
    _prover: Prover
    _acks: AckBoard
    _process: Supervised | None = field(default=None, init=False)
    _running: asyncio.Task[None] | None = field(default=None, init=False)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.engine.config.start == "always":
            self._wanted.set()
        else:
            self.engine.state = EngineState.STOPPED

    def report(self, gpus: Sequence[Gpu], unreached: str = "", trouble: str = "") -> Replica:
        """The engine's part of a report, with the GPUs of the node on which its processes were seen.

        `unreached` and `trouble` as in `EngineReplica.report`. The processes of an engine that somebody else runs are
        not known, so no GPU is named for it.
        """
        leader = self._process.pid if self._process is not None else None
        return self.engine.report(unreached, trouble).model_copy(update=seen_on(leader, gpus))

    def start(self) -> None:
        """Keeps the engine running from now on."""
        self._stopped = False
        self._wanted.set()

    async def stop(self) -> None:
        """Ends the engine, if it runs: first its new requests, then the answers under way, then the process."""
        engine, name = self.engine, self.engine.config.name
        if self._stopped:
            return
        self._wanted.clear()
        async with engine.changing:  # a load that is under way is not torn
            engine.state = EngineState.STOPPED
            engine.began.set()  # a process of it that still runs is wanted by nothing
            engine.running.clear()
        await self._reconciler.at_router.push()
        await self._drained()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        process = self._process or self._supervised()
        if await process.end(END_S):
            log.info("engine %s is stopped: nothing wants its base", name)
        await self._void(EngineState.STOPPED)
        self._stopped = True

    async def _drained(self) -> None:
        """Returns once no answer is under way on this engine, or after `DRAIN_S`."""
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            traffic = (await self._reconciler.at_router.router.stats()).traffic
            if not any(row.streams for row in traffic if row.replica == self.engine.name):
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    async def run(self) -> None:
        """Keeps the engine running while it is wanted, or watches one that somebody else runs, until cancelled."""
        name = self.engine.config.name
        if self.engine.config.attached:
            await Watched(
                f"engine {name}", probe=self._boot, came_up=self._up, went_down=self._down, look=self._compare
            ).run()
        while True:
            await self._wanted.wait()
            if self.engine.state is EngineState.STOPPED:
                self.engine.state = EngineState.STARTING
            self._process = self._supervised()
            self._running = asyncio.create_task(self._process.run())
            try:
                await self._running
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the agent ends, and leaves the engine running; else it was stopped

    def _supervised(self) -> Supervised:
        name = self.engine.config.name
        folder = self._folder.engine(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        program = Program(
            f"engine {name}",
            engine_argv(self.engine.config, folder),
            self._folder.engine_lock(name),
            folder / "engine.log",
            ENGINE_READY_S,
            vllm_environment(self.engine.config) if isinstance(self.engine.config, VllmEngine) else {},
        )
        return Supervised(program, probe=self._probe, came_up=self._up, went_down=self._down)

    async def _boot(self) -> str | None:
        """Boot id of the engine that answers; None while it is starting."""
        with self._faults():
            return await self.engine.api.boot() if await self.engine.api.healthy() else None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Notes why an engine that answers cannot be used."""
        try:
            yield
        except Unreachable:
            self.engine.fault = ""
            raise
        except AgentError as error:
            self.engine.fault = f"{error}; {error.fix}" if error.fix else str(error)
            raise

    async def _probe(self) -> str | None:
        try:
            return await self._boot()
        except Unreachable:
            return None
        except AgentError as error:
            log.error("engine %s cannot be identified: %s", self.engine.config.name, error)
            return None

    async def _up(self, boot: str, adopted: bool = True) -> None:
        """Takes an engine over: releases ready in this very lifetime stay, others are loaded and verified anew."""
        engine = self.engine
        took = time.monotonic() - self._process.began if self._process is not None and not adopted else None
        async with engine.changing:
            with self._faults():
                version = await engine.api.take_over()
            listed, levels = await engine.api.models(), await engine.api.levels()
            engine.fault = ""
            # Nothing awaits from here until `ready` is set: else the router might get an engine that holds nothing.
            first = not engine.up
            engine.came_up(version)
            engine.levels = levels
            if first and took is not None:
                engine.measured.note(engine.build.base, start=took)
            ours = {name[-64:]: name for name, root in listed.items() if self._is_ours(root)}
            known = engine.record.of(boot)
            kept = {release: ours[release] for release in known.loaded if release in ours} if known else {}
            engine.loaded, engine.ready = dict(kept), set(kept)
            engine.merged_ready = set(known.merged) if known else set()
            engine.listed_in_router = known is not None
            await engine.keep_ready()
            await self._reconciler.at_router.push()
            self._unload_unknown(listed)
        self._reconciler.wake()

    def _unload_unknown(self, listed: dict[str, str]) -> None:
        """Has adapters of ours unloaded that are not known any more; those that others loaded into theirs stay."""
        engine = self.engine
        unknown = {name: root for name, root in listed.items() if name not in engine.loaded.values()}
        foreign = {name for name, root in unknown.items() if engine.config.attached and not self._is_ours(root)}
        engine.outgoing += unknown.keys() - foreign - {*engine.outgoing}
        if foreign != engine.foreign:
            log.warning("engine %s holds %d adapters that others loaded", engine.config.name, len(foreign))
            engine.foreign = foreign
            self._reconciler.wake()

    def _is_ours(self, root: str) -> bool:
        """Tells whether an adapter was loaded from this agent's folder, by this agent or one before it."""
        return Path(root).parent == self._folder.releases

    async def _compare(self) -> None:
        """Compares an attached engine's list with what is known: others may load theirs and unload ours."""
        engine = self.engine
        try:
            async with asyncio.timeout(COMPARE_WAIT_S):  # loads give way to it, once those under way have ended
                await engine.changing.acquire()
        except TimeoutError:
            return  # a load takes its time; an engine that dies under it must be noticed
        try:
            listed = await engine.api.models()
            gone = {release for release, name in engine.loaded.items() if name not in listed}
            await self._reconciler.lost(engine, gone)
            self._unload_unknown(listed)
        finally:
            engine.changing.release()

    async def _down(self) -> None:
        await self._void(EngineState.DOWN)

    async def _void(self, state: EngineState) -> None:
        """The engine is gone, and with it everything that was loaded and proven in it."""
        engine = self.engine
        engine.fault = ""
        engine.went_down(state)
        self._prover.stop_replica(engine.name)
        self._acks.forget(engine.name)
        # The router no longer has this replica, so it cannot report that the flips and proofs on it are void.
        for entry in list(self._table.entries.values()):
            if entry.current is not None and engine.runs(entry.current):
                await self._acks.post(ack_about(entry, engine.name, AckState.WAITING, "engine_down"))
        await self._reconciler.at_router.push()


def engine_argv(config: EngineConfig, folder: Path) -> tuple[str, ...]:
    """Makes the command line that starts an engine, whichever kind it is configured as."""
    if isinstance(config, VllmEngine):
        return vllm_argv(config, folder)
    assert isinstance(config, EmbeddedEngine)
    return (
        sys.executable,
        "-m",
        "loradeck_agent.embedded.serve",
        "--state",
        str(folder),
        "--base",
        str(config.base),
        "--slots",
        str(config.slots),
        "--batch-slots",
        str(config.mixed),
        "--threads",
        str(config.threads),
    )


def seen_on(leader: int | None, gpus: Iterable[Gpu]) -> dict[str, tuple[Any, ...]]:
    """Returns the `gpus` and MIG `instances` on which a process of an engine's session was seen.

    `leader`: process id of the engine; all that it started is in its session.
    """
    on = [(gpu.index, p.instance) for gpu in gpus for p in gpu.processes if leader and _session(p.pid) == leader]
    gpus_seen, instances = {index for index, _ in on}, {instance for _, instance in on if instance}
    return {"gpus": tuple(sorted(gpus_seen)), "instances": tuple(sorted(instances))}


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has ended since
        return os.getsid(pid)
    return None


ROUND_S = 5.0
"""Longest time until an ended hold of `hold_prior_s` is noticed."""


@dataclass(frozen=True)
class _Prepare:
    """A prepare of this node. Its release is wanted while it runs; then for as long as the hub's entry is being
    prepared, but not beyond monotonic `until`, in seconds: a hub that is gone must not keep a live engine stopped."""

    key: PointerKey
    generation: int
    ref: ReleaseRef
    swap: bool
    until: float | None = None
    """None: it still runs."""


@dataclass(eq=False)
class EngineSchedule:
    """Starts and stops the engines that run only while something wants their base.

    `known`: returns once the table and the bases of the engines are known; nothing is stopped before.
    """

    lives: Sequence[EngineLife]
    _: KW_ONLY
    table: DesiredTable
    reconciler: Reconciler
    memory_gb: float | None
    hold_prior_s: float
    known: Callable[[], Awaitable[None]]
    _prepares: dict[str, _Prepare] = field(default_factory=dict, init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def wake(self) -> None:
        """Makes a round due, because the table or the pins changed."""
        self._wake.set()

    async def run(self) -> None:
        """Starts and stops engines in rounds, until cancelled."""
        if all(life.engine.config.start == "always" for life in self.lives):
            return
        await self.known()
        while True:
            self._wake.clear()
            try:
                await self._round()
            except AgentError as error:
                log.error("engines cannot be started and stopped as they should: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()

    async def _round(self) -> None:
        chosen = self._chosen()
        ending = [life for life in self.lives if life.engine.name not in chosen]
        if self.table.cursor.rev:  # before the hub's first table it is not known that nothing is wanted
            await asyncio.gather(*(life.stop() for life in ending))
        for life in self.lives:
            if life.engine.name in chosen:
                life.start()

    def _chosen(self) -> frozenset[str]:
        engines = [
            Engine(
                name=life.engine.name,
                base=life.engine.base,
                always=life.engine.config.start == "always",
                memory_gb=life.engine.config.memory_gb or 0.0,
            )
            for life in self.lives
        ]
        self._prepares = {job: one for job, one in self._prepares.items() if not self._is_over(one)}
        bases = wanted_bases(
            self._entries(),
            pins=self.table.pins.values(),
            now_ms=time.time_ns() // 1_000_000,
            hold_prior_s=self.hold_prior_s,
            swaps={one.key for one in self._prepares.values() if one.swap},
        )
        return to_run(engines, bases, self.memory_gb)

    def _is_over(self, one: _Prepare) -> bool:
        """Tells whether a prepare's promote was committed or came to nothing."""
        entry = self.table.entries.get(one.key)
        if entry is not None and entry.generation > one.generation:
            return True
        if one.until is None:
            return False
        pending = entry is not None and entry.preparing is not None and entry.preparing.id == one.ref.id
        return not pending or one.until < time.monotonic()

    def _entries(self) -> list[TableEntry]:
        """The table, with what is being prepared here: its job may be here before its entry."""
        preparing = {one.key: one.ref for one in self._prepares.values()}
        entries = []
        for entry in self.table.named():
            ref = preparing.pop(entry.key, None)
            entries.append(entry if ref is None else entry.model_copy(update={"preparing": ref}))
        for (tenant, route), ref in preparing.items():
            entries.append(TableEntry(tenant=tenant, route=route, epoch=0, generation=0, current=None, preparing=ref))
        return entries

    @contextlib.contextmanager
    def preparing(self, job: JobAssignment) -> Iterator[None]:
        """Keeps the engines of a prepare's base wanted while it runs, and for a while after it succeeded.

        Raises: AgentError: `no_memory`, none of them fits beside those that must run.
        """
        ref, spec = job.release, job.spec
        if ref is None or not isinstance(spec, PrepareSpec):
            yield
            return
        self._prepares[job.id] = _Prepare((spec.tenant, spec.route), spec.expected_generation, ref, job.swap)
        try:
            self._must_fit(ref)
            self.wake()
            yield
        except BaseException:
            self._prepares.pop(job.id, None)
            self.wake()
            raise
        if job.id in self._prepares:
            self._prepares[job.id] = replace(self._prepares[job.id], until=time.monotonic() + PREPARED_S)

    def _must_fit(self, ref: ReleaseRef) -> None:
        placed = [life.engine for life in self.lives if life.engine.runs(ref)]
        chosen = self._chosen()
        if placed and not any(engine.name in chosen for engine in placed):
            raise AgentError(
                "no_memory",
                "no engine of the release's base fits beside those that must run",
                f"{placed[0].name} takes {placed[0].config.memory_gb:g} GB, the node has {self.memory_gb:g}",
                "move what is live on the other engine away, or override the promote where it alone is live there",
            )
