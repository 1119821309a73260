"""Jobs on this node: their leases, the events of their executors on the way to the hub, and prepares.

A job's events go up under its lease, from the job's own event file. After a link was lost, events that the hub has
not acknowledged are sent again, and so are the last terminal events, because nobody knows whether they arrived.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from loradeck.rules.scheduling import gpu_counts
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import TERMINAL, EngineDoor, ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment, JudgeSpec, LeakSpec, PrepareSpec, Scheduled, TrainSpec
from loradeck.schemas.link import JobEvent, JobLog
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder, sweep
from loradeck_agent.jobs.backend import Backend
from loradeck_agent.jobs.events import LogTail, as_read, failure, job_event
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.launch import Launcher, base_of
from loradeck_agent.jobs.prepare import prepare, up_with_base
from loradeck_agent.jobs.results import Results
from loradeck_agent.jobs.room import Room
from loradeck_agent.serving.engine_api import Canaries, EngineAddress, EngineApi
from loradeck_agent.serving.engine_lifecycle import EngineSchedule
from loradeck_agent.serving.engine_relay import EngineRelay, address_relay
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.checkpoints import CheckpointStore

log = logging.getLogger(__name__)

TAIL_S = 0.25
LOG_S = 1.0
"""How often an executor's printed lines are sent."""

NOTED_S = 5.0
"""How long the end of a job waits for the hub to acknowledge the events before it, while there is a link."""

REOPEN_S = 5.0
"""Between two looks for an engine that a job of an earlier agent could ask."""

DRAINED = "the node is drained"

SWEEP_S = 6 * 3600.0
"""How often old attempts and checkpoints are removed."""

REPEAT_S = 600.0
"""Terminal events younger than this are sent again after the link was lost."""

Listening = Callable[[Path], AbstractAsyncContextManager[EngineDoor]]
"""Lets an executor ask something at the socket of this path, for as long as the context lasts."""

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class _Running:
    job: JobAssignment
    task: asyncio.Task[None]
    executor: Executor | None = None
    after: asyncio.Task[None] | None = None
    """Ends the attempt before it, whose lease is over."""
    leaving: bool = False
    again: bool = False
    """The link was lost since: events that the hub has not acknowledged are to be sent again."""


@dataclass
class _SentEvent:
    event: JobEvent
    at: float


@dataclass
class Jobs:
    """All jobs of this node. `send` is the link's: False means the link is down."""

    folder: StateFolder
    engines: tuple[EngineReplica, ...]
    checkpoints: CheckpointStore
    reconciler: Reconciler
    schedule: EngineSchedule
    launcher: Launcher
    results: Results
    send: Callable[[JobEvent | JobLog], Awaitable[bool]]
    backend: Backend
    room: Room = field(default_factory=Room)
    tracked: bool = False
    """A tracking server is told what jobs have measured."""
    hub_reads: int = 0
    """The level of reports that the hub reads which is followed; see `schemas.jobs.RECIPES`."""
    _running: dict[str, _Running] = field(default_factory=dict)
    _terminals: dict[str, _SentEvent] = field(default_factory=dict)
    _linked: asyncio.Event = field(default_factory=asyncio.Event)
    _asides: set[asyncio.Task[None]] = field(default_factory=set)

    # ---- from the hub --------------------------------------------------------------------------------------

    def running(self) -> tuple[tuple[str, int], ...]:
        """(job, lease) of the jobs that run here."""
        return tuple((running.job.id, running.job.lease) for running in self._running.values())

    def reporting(self) -> tuple[tuple[str, int], ...]:
        """(job, lease) of the jobs of which events are to come, for the hello: those that run, and those that ended
        of late, whose last event is sent once more.
        """
        now = time.monotonic()
        ended = {sent.event.job: sent.event.lease for sent in self._terminals.values() if now - sent.at < REPEAT_S}
        return tuple((ended | dict(self.running())).items())

    def scheduled(self) -> tuple[tuple[str, int, Scheduled], ...]:
        """(job, lease, what its scheduler says) of the jobs that run at one, for the report."""
        found = []
        for running in self._running.values():
            said = running.executor.workload.look().scheduled if running.executor is not None else None
            if said is not None:
                found.append((running.job.id, running.job.lease, said))
        return tuple(found)

    def assign(self, job: JobAssignment) -> None:
        """Starts a job. The same lease again is no second start; a newer one replaces the older."""
        held = self._running.get(job.id)
        if held is not None and held.job.lease >= job.lease:
            return
        if not _JOB_ID.fullmatch(job.id):
            log.error("a job's id is no name of a folder and is refused: %r", job.id)
            return
        self._start(job, None, after=self._aside(self._stopped(held)) if held is not None else None)

    def cancel(self, job: str, lease: int) -> None:
        """Stops a job; under an older lease than the one that runs, nothing happens."""
        held = self._running.get(job)
        if held is None or held.job.lease > lease:
            return
        log.info("job %s is cancelled", job)
        if held.executor is not None and held.executor.started:
            held.executor.workload.note(cancelled=True)
        self._leave(held, "cancelled by the hub")

    def preempt(self) -> None:
        """Ends every running job except prepares, at its next step and with a checkpoint where it makes one; the hub
        gives the job to another node."""
        for held in self._running.values():
            if isinstance(held.job.spec, PrepareSpec) or held.leaving:
                continue
            held.leaving = True
            log.info("job %s leaves: the node is drained", held.job.id)
            # Not at once: one that was given just now has to begin before it can say that it ends.
            asyncio.get_running_loop().call_soon(self._leave, held, DRAINED)

    def _leave(self, held: _Running, why: str) -> None:
        """Has an attempt stop at its next step, or not begin."""
        if held.executor is not None and held.executor.started:
            self._aside(held.executor.workload.end())
        else:
            held.task.cancel(why)

    def _aside(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        return task

    async def _stopped(self, held: _Running) -> None:
        """Ends an attempt whose lease is over; no event of it is sent any more."""
        held.task.cancel("replaced")
        await asyncio.wait([held.task, *filter(None, [held.after])])
        if held.executor is not None:
            await self._ended(held.executor)
            held.executor.workload.over()  # else each agent that is started anew follows it

    async def _ended(self, executor: Executor) -> None:
        await executor.workload.end()
        await self.room.left(executor)

    def noted(self, job: str, lease: int, seq: int) -> None:
        """The hub has acknowledged an event."""
        held = self._running.get(job)
        if held is not None and held.job.lease == lease and held.executor is not None:
            held.executor.noted(seq)

    def linked(self, connected: bool) -> None:
        """The link came up or was lost."""
        if not connected:
            self._linked.clear()
            return
        for running in self._running.values():
            running.again = True
        self._linked.set()
        for sent in self._terminals.values():
            if time.monotonic() - sent.at < REPEAT_S:
                self._aside(self._resend(sent.event))

    async def _resend(self, event: JobEvent) -> None:
        await self.send(as_read(event, self.hub_reads))

    # ---- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follows executors of an earlier agent, then removes old ones, until cancelled. Executors outlive this."""
        for path in sorted(self.folder.jobs.iterdir()):
            folder = ExecutorFolder(path, self.launcher.user if (path / "work").is_dir() else None)
            attempt = folder.read()
            if attempt is not None and not attempt.ended:
                log.info("job %s is followed again", attempt.job.id)
                self._start(attempt.job, Executor(self.backend(folder, attempt)), after=None)
        try:
            while True:
                await asyncio.to_thread(self._sweep)
                await asyncio.sleep(SWEEP_S)
        finally:
            tasks = [running.task for running in self._running.values()]
            for task in tasks:
                task.cancel("the agent ends")
            await asyncio.gather(*tasks, return_exceptions=True)

    def _sweep(self) -> None:
        """Removes old attempts and checkpoints: a disk that fills up refuses the router's table in the end."""
        try:
            self.checkpoints.sweep()
            sweep(self.folder.jobs)
        except OSError as error:
            log.error("files of old jobs cannot be removed: %s", error)

    def _start(self, job: JobAssignment, executor: Executor | None, *, after: asyncio.Task[None] | None) -> None:
        async def run() -> None:
            try:
                if isinstance(job.spec, PrepareSpec):
                    if after is not None:
                        await asyncio.shield(after)
                    await self._prepare(job)
                else:
                    await self._execute(job, running)
            finally:
                if self._running.get(job.id) is running:
                    del self._running[job.id]

        running = _Running(job, asyncio.get_running_loop().create_task(run()), executor, after)
        self._running[job.id] = running

    async def _send_event(self, job: JobAssignment, event: ExecutorEvent, result: dict[str, Any] | None = None) -> None:
        """Sends one event, waiting for the link as long as it takes."""
        message = JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event, result=result)
        while not await self.send(as_read(message, self.hub_reads)):
            self._linked.clear()
            await self._linked.wait()
        if event.type in TERMINAL:
            now = time.monotonic()
            self._terminals = {name: sent for name, sent in self._terminals.items() if now - sent.at < REPEAT_S}
            self._terminals[job.id] = _SentEvent(message, now)

    # ---- prepare -------------------------------------------------------------------------------------------

    async def _prepare(self, job: JobAssignment) -> None:
        await self._send_event(job, job_event(job, 0, ExecutorEventType.STARTED))
        try:
            with self.schedule.preparing(job):
                result = await prepare(job, self.engines, self.reconciler)
        except asyncio.CancelledError as cancelled:
            if "cancelled" in str(cancelled):
                await self._send_event(
                    job, job_event(job, 1, ExecutorEventType.PREEMPTED, "cancelled", code="cancelled")
                )
            raise
        except AgentError as error:
            await self._send_event(job, failure(job, 1, error))
        except Exception as error:
            log.exception("prepare %s broke", job.id)
            await self._send_event(job, failure(job, 1, AgentError("prepare_broke", "prepare broke", repr(error))))
        else:
            await self._send_event(job, job_event(job, 1, ExecutorEventType.FINISHED), result)

    # ---- executors -----------------------------------------------------------------------------------------

    async def _execute(self, job: JobAssignment, running: _Running) -> None:
        """Runs one attempt, from its inputs to its terminal event."""
        executor = running.executor
        if executor is None:
            folder = ExecutorFolder(self.folder.jobs / f"{job.id}-{job.attempt}", self.launcher.user)
            executor = running.executor = Executor(self.backend(folder, Attempt(job=job)))
        try:
            if running.after is not None:
                await asyncio.shield(running.after)  # it is ended also where this attempt is cancelled meanwhile
            asked = self._asked(job, executor)  # refuses what cannot run here before it waits for room
            async with (
                self.room.taken(executor, gpu_counts(job.spec, resumed=job.checkpoint is not None)) as devices,
                self._doors(executor, asked) as doors,
            ):
                if not executor.started:
                    await self.launcher.launch(job, executor, devices, doors)
                terminal = await self._tail(running, executor)
            event, result = await self.results.outcome(job, executor, terminal)
        except asyncio.CancelledError as cancelled:
            if DRAINED in str(cancelled):
                event = job_event(job, 0, ExecutorEventType.PREEMPTED, "drained before it began", code="preempted")
            elif "cancelled" in str(cancelled):
                event = job_event(job, 0, ExecutorEventType.PREEMPTED, "cancelled before it began", code="cancelled")
            else:
                raise
            result = None
        except AgentError as error:
            await self._ended(executor)
            event, result = failure(job, executor.top + 1, error), None
        except Exception as error:
            log.exception("job %s broke", job.id)
            await self._ended(executor)
            broke = AgentError("job_broke", "the agent could not carry the job out", repr(error))
            event, result = failure(job, executor.top + 1, broke), None
        if event.type is ExecutorEventType.FAILED:
            event = event.model_copy(update={"data": {**event.data, "log": executor.folder.last_lines()}})
        await self._send_event(job, event, result)
        if self.tracked:
            from loradeck_agent.jobs.tracking import outcome  # few nodes have a tracking server

            executor.workload.note(outcome=outcome(event, result))
        executor.workload.over()
        if event.type is ExecutorEventType.FINISHED:  # any other may be taken up again
            await asyncio.to_thread(self.checkpoints.drop, job.id)

    @asynccontextmanager
    async def _doors(self, executor: Executor, asked: Mapping[str, Listening]) -> AsyncIterator[dict[str, EngineDoor]]:
        """Opens what a job asks while it runs, and yields the doors by their names; see `_asked` and `_opened`."""
        doors = dict[str, EngineDoor]()
        async with AsyncExitStack() as opened:
            for name, listening in asked.items():
                if (socket := self._door(executor, name)) is None:
                    continue
                opening = self._opened(executor, partial(listening, socket))
                if (door := await opened.enter_async_context(opening)) is not None:
                    doors[name] = door
            yield doors

    def _asked(self, job: JobAssignment, executor: Executor) -> dict[str, Listening]:
        """Lists what a job asks while it runs: the name of its door, and what opens that at a socket.

        `engine` answers an evaluation, and says in which tokens it reads the rows of a training; `teacher` serves the
        teacher of a distillation. What a generate or judge job asks has its release's id, and a judge elsewhere the
        digest of its settings.

        Raises: AgentError: no engine here has the base that is to be trained.
        """
        ref, spec, ways = job.release, job.spec, dict[str, Listening]()
        if isinstance(spec, TrainSpec):
            if self.engines and not executor.started:  # else the engines may not have said their bases yet
                base_of(self.engines, spec.base, self.launcher.bases)
            if self.engines and (executor.started or spec.base not in self.launcher.bases):  # a submit host has none
                ways["engine"] = partial(self._listening, spec.base, ref, job.canaries)
            if spec.distillation is not None and spec.asks_teacher:
                taught_by = ReleaseRef.of_base(spec.tenant, spec.distillation.teacher)
                ways["teacher"] = partial(self._listening, taught_by.release.base, taught_by, ())
        if isinstance(spec, EvaluateSpec | LeakSpec) and self.engines and ref is not None and not spec.offline:
            ways["engine"] = partial(self._listening, ref.release.served_base, ref, job.canaries)
        for one in job.asked:
            ways[one.id] = partial(self._listening, one.release.served_base, one, ())
        if isinstance(spec, JudgeSpec) and spec.judge.address is not None:
            ways[spec.judge.digest] = partial(self._judge, spec.judge.address)
        return ways

    def _door(self, executor: Executor, name: str) -> Path | None:
        """Names the socket where an executor asks an engine; None: it was begun, and told of none."""
        if not executor.started:
            return self.folder.door(executor.folder.path.name, name)
        told = ExecutorSpec.model_validate_json(executor.folder.spec.read_bytes())
        door = {"engine": told.engine, "teacher": told.teacher, **told.doors}.get(name)
        return Path(door.socket) if door is not None else None

    @asynccontextmanager
    async def _opened(
        self, executor: Executor, listening: Callable[[], AbstractAsyncContextManager[EngineDoor]]
    ) -> AsyncIterator[EngineDoor | None]:
        """Lets an executor ask an engine, or a judge elsewhere, at a door that `listening` opens.

        One that an earlier agent began is followed at once, without a door: it has asked already, or asks again for a
        while by itself, until an engine is up.

        Raises: AgentError: no engine here has the base up, or the release cannot be made ready in it; `unknown_judge`,
            or why its key cannot be read.
        """
        if not executor.started:
            async with listening() as door:
                yield door
            return

        async def reopened() -> None:
            said = ""
            while True:
                try:
                    async with listening():
                        await asyncio.Event().wait()
                except (AgentError, OSError) as error:
                    if str(error) != said:
                        said = str(error)
                        log.warning(
                            "%s goes on without an engine that it could ask: %s", executor.folder.path.name, said
                        )
                    await asyncio.sleep(REOPEN_S)

        opening = asyncio.get_running_loop().create_task(reopened())
        try:
            yield None
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)

    @asynccontextmanager
    async def _listening(
        self, base: str, ref: ReleaseRef | None, canaries: Canaries, socket: Path
    ) -> AsyncIterator[EngineDoor]:
        engine = (await up_with_base(self.engines, base))[0]
        async with EngineRelay(engine, ref, canaries, self.reconciler).listening(socket, self.launcher.user):
            yield _door(engine, socket)

    @asynccontextmanager
    async def _judge(self, name: str, socket: Path) -> AsyncIterator[EngineDoor]:
        """Lets an executor ask a judge that this node's configuration has an address of."""
        at = self.launcher.judges.get(name)
        if at is None:
            fix = f"write [[judge]] with name = {name!r} into its configuration, or place the job by --label"
            raise AgentError("unknown_judge", "this node has no judge of that name", name, fix)
        api = EngineApi(EngineAddress(url=at.url), at.read_key())
        try:
            async with address_relay(api, at.model, socket, self.launcher.user):
                build = EngineBuild(engine=f"address {name}", device="elsewhere", dtype="unknown")
                yield EngineDoor(replica=at.model, socket=str(socket), build=build, scores=False)
        finally:
            api.close()

    async def _tail(self, running: _Running, executor: Executor) -> ExecutorEvent | None:
        """Forwards events until the process has ended and the hub has them. Returns its terminal event.

        That one is not forwarded yet.
        """
        terminal: ExecutorEvent | None = None
        patience: float | None = None
        printed, log_due = LogTail(executor.folder.log), 0.0
        while True:
            if running.again:
                running.again, terminal = False, None
                executor.again()
            alive = executor.workload.look().alive  # asked first: what it wrote before it ended is then read below
            for event in executor.new_events():
                if event.type is ExecutorEventType.STARTED:
                    terminal = None  # its scheduler has begun it again: what ended before was no end
                if event.type in TERMINAL:
                    terminal = terminal or event
                    executor.noted(event.seq)
                elif terminal is not None:
                    executor.noted(event.seq)
                elif not await self._forward(running, event):
                    break
            if terminal is None:
                executor.keep_noted()
            if time.monotonic() >= log_due or not alive:
                log_due = time.monotonic() + LOG_S
                await self._print(running.job, printed, ended=not alive)
            if not alive and not running.again:
                now = time.monotonic()
                patience = now + NOTED_S if patience is None or not self._linked.is_set() else patience
                if not executor.unnoted or now > patience:
                    return terminal
            await asyncio.sleep(TAIL_S)

    async def _print(self, job: JobAssignment, printed: LogTail, *, ended: bool) -> None:
        """Sends the lines that the executor printed since the last time. Without a link the newest of them wait."""
        printed.read(ended=ended)
        first, lines = printed.waiting()
        if lines and await self.send(
            JobLog(job=job.id, lease=job.lease, attempt=job.attempt, first=first, lines=lines)
        ):
            printed.sent()

    async def _forward(self, running: _Running, event: ExecutorEvent) -> bool:
        """Sends an event. False: a link was lost, and every event that the hub has not acknowledged goes before it."""
        job = running.job
        if event.type is ExecutorEventType.CHECKPOINT:
            event = await self.checkpoints.handed_over(job.id, event)
        if not await self.send(JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event)):
            self._linked.clear()
            await self._linked.wait()
        return not running.again


def _door(engine: EngineReplica, socket: Path) -> EngineDoor:
    build = engine.build.build
    # A vLLM on CPU that serves adapters ends where it is asked for them (hazard 11 in tests/vllm/test_hazards.py).
    scores = isinstance(engine.config, VllmEngine) and build.device != "cpu"
    return EngineDoor(replica=engine.name, socket=str(socket), build=build, scores=scores)
