"""Jobs on this node: leases, executors and their events, results, and prepares.

A job's events go up under its lease, from the job's own event file. After a link was lost, whatever the hub has
not said it took in is sent again, and so are the last terminal events, because nobody knows whether they arrived.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import CanaryRecord, EvaluationReport
from loradeck.schemas.jobs import (
    TERMINAL,
    EvaluateSpec,
    ExecutorEvent,
    ExecutorEventType,
    ExecutorSpec,
    JobAssignment,
    MergeSpec,
    PrepareSpec,
    TrainSpec,
)
from loradeck.schemas.link import JobEvent, JobLog
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck.schemas.release import Form
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.jobs.executor import EXIT_CODES, Attempt, Executor, ExecutorFolder, read_json, sweep
from loradeck_agent.jobs.job_log import LogTail
from loradeck_agent.jobs.prepare import prepare
from loradeck_agent.serving.engine_schedule import Upkeep
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.checkpoints import CheckpointStore
from loradeck_agent.store.inputs import MANIFEST, InputStore
from loradeck_agent.store.merged_weights import keep_merged
from loradeck_agent.store.releases import ReleaseStore, verify_adapter
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

Result = TypeVar("Result")

TAIL_S = 0.25
LOG_S = 1.0
"""How often an executor's printed lines are sent."""

NOTED_S = 5.0
"""How long the end of a job waits for the hub to take in the events before it, while there is a link."""

RETRY_S = 1.0
DRAINED = "the node is drained"
REACH_S = 600.0
"""How long a finished job tries to reach the hub with its results before it is given up."""

SWEEP_S = 6 * 3600.0
"""How often what old jobs left is looked through."""

REPEAT_S = 600.0
"""Terminal events younger than this are sent again after the link was lost."""

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class _Running:
    job: JobAssignment
    task: asyncio.Task[None]
    executor: Executor | None = None
    leaving: bool = False
    again: bool = False
    """The link was lost since: what the hub has not taken in is to be sent again."""


@dataclass(frozen=True)
class _Base:
    digest: str
    folder: Path


@dataclass
class _Said:
    event: JobEvent
    at: float


@dataclass
class Jobs:
    """All jobs of this node. `send` is the link's: False means the link is down."""

    folder: StateFolder
    engines: tuple[EngineReplica, ...]
    hub: HubApi
    store: ReleaseStore
    inputs: InputStore
    checkpoints: CheckpointStore
    reconciler: Reconciler
    upkeep: Upkeep
    send: Callable[[JobEvent | JobLog], Awaitable[bool]]
    threads: int = 1
    _running: dict[str, _Running] = field(default_factory=dict)
    _said: dict[str, _Said] = field(default_factory=dict)
    _linked: asyncio.Event = field(default_factory=asyncio.Event)
    _asides: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    # ---- from the hub --------------------------------------------------------------------------------------

    def running(self) -> tuple[tuple[str, int], ...]:
        """(job, lease) of what runs here, for the hello."""
        return tuple((running.job.id, running.job.lease) for running in self._running.values())

    def assign(self, job: JobAssignment) -> None:
        """Starts a job. The same lease again is no second start; a newer one replaces the older."""
        held = self._running.get(job.id)
        if held is not None and held.job.lease >= job.lease:
            return
        if not _JOB_ID.fullmatch(job.id):
            log.error("a job's id is no name of a folder and is refused: %r", job.id)
            return
        self._start(job, None, after=self._stopped(held) if held is not None else None)

    def cancel(self, job: str, lease: int) -> None:
        """Stops a job; under an older lease than the one that runs, nothing happens."""
        held = self._running.get(job)
        if held is None or held.job.lease > lease:
            return
        log.info("job %s is cancelled", job)
        if held.executor is not None and held.executor.started:
            held.executor.note(cancelled=True)
            self._aside(held.executor.end())
        else:
            held.task.cancel("cancelled by the hub")

    def preempt(self) -> None:
        """Everything but prepares leaves at its next step, with a checkpoint where it makes some. The hub gives it to
        another node."""
        for held in self._running.values():
            if isinstance(held.job.spec, PrepareSpec) or held.leaving:
                continue
            held.leaving = True
            log.info("job %s leaves: the node is drained", held.job.id)
            if held.executor is not None and held.executor.started:
                self._aside(held.executor.end())
            else:
                # Not at once: one that was given just now has to begin before it can say that it ends.
                asyncio.get_running_loop().call_soon(held.task.cancel, DRAINED)

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _stopped(self, held: _Running) -> None:
        """Ends an attempt whose lease is over; nothing more is said of it."""
        held.task.cancel("replaced")
        await asyncio.wait([held.task])
        if held.executor is not None:
            await held.executor.end()

    def noted(self, job: str, lease: int, seq: int) -> None:
        """The hub has taken an event in."""
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
        for said in self._said.values():
            if time.monotonic() - said.at < REPEAT_S:
                self._aside(self._say_again(said.event))

    async def _say_again(self, event: JobEvent) -> None:
        await self.send(event)

    # ---- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Takes up again what an earlier agent left running, then tidies up, for ever. Executors outlive this."""
        for path in sorted(self.folder.jobs.iterdir()):
            folder = ExecutorFolder(path)
            attempt = folder.read()
            if attempt is not None and not attempt.ended:
                log.info("job %s is taken up again", attempt.job.id)
                self._start(attempt.job, Executor(folder, attempt), after=None)
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
        """Removes what nobody will come back for: a disk that fills up refuses the router's table in the end."""
        try:
            self.checkpoints.sweep()
            sweep(self.folder.jobs)
        except OSError as error:
            log.error("what old jobs left cannot be removed: %s", error)

    def _start(self, job: JobAssignment, executor: Executor | None, *, after: Awaitable[None] | None) -> None:
        async def run() -> None:
            if after is not None:
                await after
            try:
                if isinstance(job.spec, PrepareSpec):
                    await self._prepare(job)
                else:
                    await self._execute(job, running)
            finally:
                if self._running.get(job.id) is running:
                    del self._running[job.id]

        running = _Running(job, asyncio.get_running_loop().create_task(run()), executor)
        self._running[job.id] = running

    async def _say(self, job: JobAssignment, event: ExecutorEvent, result: dict[str, Any] | None = None) -> None:
        """Sends one event, waiting for the link as long as it takes."""
        message = JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event, result=result)
        while not await self.send(message):
            self._linked.clear()
            await self._linked.wait()
        if event.type in TERMINAL:
            now = time.monotonic()
            self._said = {name: said for name, said in self._said.items() if now - said.at < REPEAT_S}
            self._said[job.id] = _Said(message, now)

    # ---- prepare -------------------------------------------------------------------------------------------

    async def _prepare(self, job: JobAssignment) -> None:
        await self._say(job, _event(job, 0, ExecutorEventType.STARTED))
        try:
            with self.upkeep.preparing(job):
                result = await prepare(job, self.engines, self.reconciler)
        except asyncio.CancelledError as cancelled:
            if "cancelled" in str(cancelled):
                await self._say(job, _event(job, 1, ExecutorEventType.PREEMPTED, "cancelled", code="cancelled"))
            raise
        except AgentError as error:
            await self._say(job, _failure(job, 1, error))
        except Exception as error:
            log.exception("prepare %s broke", job.id)
            await self._say(job, _failure(job, 1, AgentError("prepare_broke", "prepare broke", repr(error))))
        else:
            await self._say(job, _event(job, 1, ExecutorEventType.FINISHED), result)

    # ---- executors -----------------------------------------------------------------------------------------

    async def _execute(self, job: JobAssignment, running: _Running) -> None:
        """One attempt from its inputs to its terminal event."""
        executor = running.executor
        if executor is None:
            folder = ExecutorFolder(self.folder.jobs / f"{job.id}-{job.attempt}")
            executor = running.executor = Executor(folder, Attempt(job=job))
        try:
            async with self._turn:
                if not executor.started:
                    await self._launch(job, executor)
                terminal = await self._tail(running, executor)
            event, result = await self._outcome(job, executor, terminal)
        except asyncio.CancelledError as cancelled:
            if DRAINED in str(cancelled):
                event = _event(job, 0, ExecutorEventType.PREEMPTED, "drained before it began", code="preempted")
            elif "cancelled" in str(cancelled):
                event = _event(job, 0, ExecutorEventType.PREEMPTED, "cancelled before it began", code="cancelled")
            else:
                raise
            result = None
        except AgentError as error:
            event, result = _failure(job, executor.top + 1, error), None
        except Exception as error:
            log.exception("job %s broke", job.id)
            broke = AgentError("job_broke", "the agent could not carry the job out", repr(error))
            event, result = _failure(job, executor.top + 1, broke), None
        if event.type is ExecutorEventType.FAILED:
            event = event.model_copy(update={"data": {**event.data, "log": executor.folder.last_lines()}})
        await self._say(job, event, result)
        executor.note(ended=True)
        if event.type is ExecutorEventType.FINISHED:  # any other may be taken up again
            await asyncio.to_thread(self.checkpoints.drop, job.id)

    async def _launch(self, job: JobAssignment, executor: Executor) -> None:
        executor.folder.write(executor.attempt)
        spec, folder = job.spec, executor.folder
        inputs: dict[str, str] = {}
        if isinstance(spec, TrainSpec):
            base = self._base(spec.base)
            for digest in spec.datasets:
                inputs[digest] = str(await self.inputs.dataset(digest))
            for digest in job.held_out:
                inputs[digest] = str(await self.inputs.suite(digest))
            if job.checkpoint is not None:
                await self.checkpoints.have(job.id, job.checkpoint)
            if spec.parent is not None:
                inputs[spec.parent] = str(await self.inputs.adapter(spec.tenant, spec.name, spec.parent, base.folder))
        elif isinstance(spec, EvaluateSpec | MergeSpec):
            if job.release is None:
                raise AgentError("bad_job", "the job names no release", job.id)
            release = job.release.release
            evaluates = isinstance(spec, EvaluateSpec)
            base = self._base(release.served_base if evaluates else release.base)
            if isinstance(spec, EvaluateSpec):
                inputs[spec.suite] = str(await self.inputs.suite(spec.suite))
            if release.adapter is not None and not (evaluates and release.form is Form.MERGED):
                inputs[release.adapter] = str(await self.store.ensure(job.release, base.digest, base.folder))
        else:
            raise AgentError("bad_job", f"{spec.kind} has no executor", job.id)
        executor.start(
            spec.kind,
            ExecutorSpec(
                run=job.id,
                attempt=job.attempt,
                spec=spec,
                base=str(base.folder),
                base_digest=base.digest,
                inputs=inputs,
                release=job.release.release if job.release is not None else None,
                canaries=job.canaries,
                out=str(folder.out),
                events=str(folder.events),
                error=str(folder.error),
                checkpoints=str(self.checkpoints.folder(job.id)),
                held_out=job.held_out,
                threads=self.threads,
            ),
        )

    def _base(self, digest: str) -> _Base:
        """Where a base lies on this node: its engine's folder."""
        for engine in self.engines:
            if engine.base == digest:
                return _Base(digest, engine.config.base)
        raise AgentError("unknown_base", "no engine of this node has the job's base", digest)

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
            alive = executor.alive()  # asked first: what it wrote before it ended is then read below
            for event in executor.new_events():
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
        """Sends what the executor printed since the last time. Without a link it waits, the newest of it."""
        printed.read(ended=ended)
        first, lines = printed.waiting()
        if lines and await self.send(
            JobLog(job=job.id, lease=job.lease, attempt=job.attempt, first=first, lines=lines)
        ):
            printed.sent()

    async def _forward(self, running: _Running, event: ExecutorEvent) -> bool:
        """Sends an event. False: a link was lost, and everything that the hub has not taken in goes before it."""
        job = running.job
        if event.type is ExecutorEventType.CHECKPOINT:
            event = await self.checkpoints.handed_over(job.id, event)
        if not await self.send(JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event)):
            self._linked.clear()
            await self._linked.wait()
        return not running.again

    async def _outcome(
        self, job: JobAssignment, executor: Executor, terminal: ExecutorEvent | None
    ) -> tuple[ExecutorEvent, dict[str, Any] | None]:
        """What an ended process amounts to: done only with a clean exit, a terminal event and a verified result."""
        status, seq = executor.status, executor.top + 1
        clean = terminal is not None and terminal.type is ExecutorEventType.FINISHED and status in (0, None)
        if executor.attempt.cancelled and not clean:
            at = terminal.seq if terminal else seq
            return _event(job, at, ExecutorEventType.PREEMPTED, "cancelled", code="cancelled"), None
        if terminal is not None and terminal.type is not ExecutorEventType.FINISHED:
            return terminal, None
        if terminal is None or status not in (0, None):
            return self._ended_badly(job, executor, terminal.seq if terminal else seq, status), None
        try:
            async with asyncio.timeout(REACH_S):
                return terminal, {**terminal.data, **await self._result(job, executor)}
        except TimeoutError:
            return _failure(job, terminal.seq, AgentError("unreachable", "the hub did not take the result")), None
        except AgentError as error:
            return _failure(job, terminal.seq, error), None

    def _ended_badly(self, job: JobAssignment, executor: Executor, seq: int, status: int | None) -> ExecutorEvent:
        where = executor.first_error() or f"see {executor.folder.log.name} in the job's folder"
        if status == 0:
            return _failure(job, seq, AgentError("no_terminal_event", "the executor left without saying how", where))
        if status is None:
            return _failure(job, seq, AgentError("executor_lost", "the executor ended and nobody saw how", where))
        if EXIT_CODES.get(status) == "preempted":
            return _event(job, seq, ExecutorEventType.PREEMPTED, "stopped on request", code="preempted")
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        code = EXIT_CODES.get(status, "killed" if status < 0 else "executor_failed")
        return _failure(job, seq, AgentError(code, f"the executor ended {how}", where))

    async def _result(self, job: JobAssignment, executor: Executor) -> dict[str, Any]:
        """Verifies what an executor left, and hands it to the hub.

        Raises:
            AgentError: it is not what its manifest says, or the hub refused it.
        """
        out = executor.folder.out
        try:
            if isinstance(job.spec, TrainSpec) and job.spec.weights is Weights.FULL:
                return await asyncio.to_thread(_trained_base, out)
            if isinstance(job.spec, TrainSpec):
                return await self._trained(out, job.spec)
            if isinstance(job.spec, MergeSpec):
                return await asyncio.to_thread(keep_merged, out, self.folder.merged)
            report = EvaluationReport.model_validate(read_json(out / "report.json"))
            record = CanaryRecord.model_validate(read_json(out / "canary.json"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AgentError(
                "result_unreadable", "the executor's result does not fit", f"{where}: {first['msg']}"
            ) from error
        return {"report": report.model_dump(mode="json"), "canary": record.model_dump(mode="json")}

    async def _trained(self, out: Path, spec: TrainSpec) -> dict[str, Any]:
        """Registers a trained adapter: its files first, so that no version is ever without them."""
        manifest = AdapterManifest.model_validate(read_json(out / MANIFEST))
        _fits(manifest, spec)
        base = self._base(manifest.base)
        await asyncio.to_thread(verify_adapter, out, manifest, base.folder, beside=(MANIFEST,))
        await self._until_reached(lambda: self.hub.upload(out, manifest.files))
        version = await self._until_reached(lambda: self.hub.register(manifest))
        return {"adapter": version.digest, "version": version.version, "release": version.release}

    async def _until_reached(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Makes a call to the hub until there is an answer; a result must not be lost to a hub that restarts."""
        while True:
            try:
                return await call()
            except Unreachable as error:
                log.info("the hub does not take a result yet: %s", error)
                await asyncio.sleep(RETRY_S)


def _trained_base(out: Path) -> dict[str, Any]:
    """A base that was trained here: it stays on this node, as all bases do, and is known by its digest."""
    manifest = BaseManifest.model_validate(read_json(out / MANIFEST))
    found = base_manifest(out, manifest.model_id, manifest.revision)
    if found.digest != manifest.digest:
        raise AgentError("manifest_mismatch", "the trained base is not what its manifest says", found.digest)
    return {"base": found.digest, "folder": str(out)}


def _fits(manifest: AdapterManifest, spec: TrainSpec) -> None:
    """Raises AgentError `manifest_mismatch` when an adapter is not what the job was to make."""
    pairs = {
        "tenant": (manifest.tenant, spec.tenant),
        "name": (manifest.name, spec.name),
        "base": (manifest.base, spec.base),
        "datasets": (manifest.datasets, spec.datasets),
        "parent": (manifest.parent, spec.parent),
    }
    for what, (found, asked) in pairs.items():
        if found != asked:
            raise AgentError("manifest_mismatch", f"the adapter's {what} is not the job's", f"{found}, not {asked}")


def _event(
    job: JobAssignment, seq: int, type_: ExecutorEventType, message: str = "", code: str | None = None
) -> ExecutorEvent:
    return ExecutorEvent(
        run=job.id, attempt=job.attempt, seq=seq, ts=time.time(), type=type_, message=message, code=code
    )


def _failure(job: JobAssignment, seq: int, error: AgentError) -> ExecutorEvent:
    message = error.sentence
    return _event(job, seq, ExecutorEventType.FAILED, message[:1000], error.code)
