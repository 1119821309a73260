"""The life of one engine of this node: started or adopted, taken over when it answers, void when it ends."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loradeck.schemas.link import Replica
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.telemetry import Gpu
from loradeck_agent.host.engine_config import EmbeddedEngine, EngineConfig, VllmEngine
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.host.supervisor import Program, Supervised, Watched
from loradeck_agent.router.wire import ack_about
from loradeck_agent.serving.proof import Prover
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.serving.vllm.command import vllm_argv, vllm_environment
from loradeck_agent.uplink.acknowledgements import AckBoard
from loradeck_agent.uplink.desired_table import DesiredTable

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
        *(sys.executable, "-m", "loradeck_agent.embedded.serve"),
        *("--state", str(folder), "--base", str(config.base)),
        *("--slots", str(config.slots), "--batch-slots", str(config.mixed), "--threads", str(config.threads)),
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
