"""Jobs: who does what, under which lease, and what became of it.

Train, evaluate and merge jobs wait for a linked node with the labels they ask for and an engine of their base, one at
a time on each. A lease fences: what a node says under an older one is refused. Prepares are run by
`promotion` and only kept here.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from loradeck.hub.data import datasets
from loradeck.hub.jobs import checkpoints, gates, merging
from loradeck.hub.jobs.logs import JobLogs
from loradeck.rules.errors import Refused
from loradeck.rules.scheduling import ATTEMPTS, has_memory, in_order, tried_again
from loradeck.rules.serving.placement import fits
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.jobs import (
    LISTED,
    TERMINAL,
    CheckpointRef,
    EvaluateSpec,
    ExecutorEvent,
    ExecutorEventType,
    Job,
    JobAssignment,
    JobQuery,
    JobRequest,
    JobState,
    MergeSpec,
    PrepareSpec,
    TrainSpec,
)
from loradeck.schemas.link import LINK_TTL_S, EngineState, Hello, JobCancel, JobEvent, JobLog, JobMessage, JobNoted
from loradeck.schemas.table import ReleaseRef
from loradeck.schemas.training import Weights
from loradeck.store.interface import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loradeck.hub.fleet.link import Link
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.jobs.queue")

OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
KEPT_EVENTS = 1000

CHECKPOINT_KEPT_MS = 14 * 86_400_000
"""How long the checkpoint of a job that failed or was cancelled waits for somebody who resumes it."""

PIECE = 200
"""Jobs that are read at a time when they are searched."""

LOG_CHARS = 2000
"""Characters of a failed job's log that are kept with the job, from its end."""


class Queue:
    def __init__(self, hub: Hub, jobs: Iterable[Job]) -> None:
        self._hub = hub
        self._jobs: dict[str, Job] = {j.id: j for j in sorted(jobs, key=lambda j: j.created_ms)}
        self._events: dict[str, deque[ExecutorEvent]] = {}
        self._cancelling: set[str] = set()
        self._absent: dict[str, float] = {}
        """Job -> since when its node is linked without running it; monotonic seconds."""
        self._closing: set[str] = set()
        self.logs = JobLogs()
        self._was_on: dict[str, str] = {}
        """Job -> the node of its last attempt, where its checkpoints lie."""
        self._counted_from: dict[str, int] = {}
        """Job -> attempts before it was resumed: they do not count against ATTEMPTS."""

    # ---- looking -------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    async def known(self, job_id: str) -> Job:
        """Raises: Refused `unknown_job`."""
        job = self._jobs.get(job_id) or await self._hub.store(lambda s: s.job(job_id))
        if job is None:
            raise Refused("unknown_job", "there is no such job", detail=job_id, fix="loradeck job list")
        return job

    def all(self) -> list[Job]:
        """Unfinished ones and the newest finished ones, newest first."""
        jobs = sorted(self._jobs.values(), key=lambda j: j.created_ms, reverse=True)
        room = LISTED - sum(j.state not in OVER for j in jobs)
        kept = {j.id for j in [j for j in jobs if j.state in OVER][: max(0, room)]}
        return [j for j in jobs if j.state not in OVER or j.id in kept]

    def recent(self) -> list[str]:
        return [j.id for j in self.all()]

    async def find(self, query: JobQuery) -> list[Job]:
        """The jobs that a query asks for, of all that were ever submitted.

        They are read in pieces, behind whatever else the store has to do: a search keeps no move waiting.

        Raises: Refused `unknown_job`: there is none to begin before.
        """
        if query.before is not None:
            await self.known(query.before)
        found: list[Job] = []
        before = query.before
        while len(found) < query.limit:
            piece = await self._hub.store(_piece(before), background=True)
            found += [job for job in (self._jobs.get(j.id, j) for j in piece) if query.takes(job)]
            if len(piece) < PIECE:
                break
            before = piece[-1].id
        return found[: query.limit]

    def events(self, job_id: str, *, attempt: int = 0, seq: int = -1) -> list[ExecutorEvent]:
        """The newest events of a job since this hub started, after one that is known."""
        return [e for e in self._events.get(job_id, ()) if (e.attempt, e.seq) > (attempt, seq)]

    # ---- keeping -------------------------------------------------------------------------------------------

    def put(self, job: Job, *, durable: bool = True) -> None:
        """Keep a job's new state and show it."""
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        if before is not None and before.checkpoint != job.checkpoint:
            checkpoints.let_go(self._hub, self._jobs.values(), before.checkpoint)
        self._hub.feeds.job(job.id)
        if durable:
            self._hub.spawn(self._write(job))
        if job.state in OVER:
            self._cancelling.discard(job.id)
            self._absent.pop(job.id, None)
            self._trim()

    async def _write(self, job: Job) -> None:
        try:
            await self._hub.store(lambda s: s.put_job(job), background=True)
        except StoreError as error:
            log.error("job not written job=%s state=%s code=%s", job.id, job.state.value, error.code)

    def _trim(self) -> None:
        over = [j for j in self._jobs.values() if j.state in OVER]
        for job in over[: max(0, len(over) - 500)]:
            if job.checkpoint is not None:
                self._forget_checkpoint(job)
            del self._jobs[job.id]
            self._events.pop(job.id, None)
            self._was_on.pop(job.id, None)
            self._counted_from.pop(job.id, None)

    def forget_checkpoints(self) -> None:
        """Lets go of checkpoints of jobs that ended long ago and nobody resumed: the hub's disk is the log's too."""
        before = self._hub.now_ms() - CHECKPOINT_KEPT_MS
        for job in self._jobs.values():
            if job.checkpoint is not None and job.state in OVER and (job.ended_ms or 0) < before:
                self._forget_checkpoint(job)

    def _forget_checkpoint(self, job: Job) -> None:
        """Resumed after this, a job begins anew."""
        old, forgotten = job.checkpoint, job.model_copy(update={"checkpoint": None})
        self._jobs[job.id] = forgotten
        self._hub.spawn(self._write(forgotten))
        checkpoints.let_go(self._hub, self._jobs.values(), old)

    async def fail_interrupted(self) -> None:
        """At the start: prepares that ran under the last hub came to nothing, and committed nothing."""
        for job in list(self._jobs.values()):
            if job.state not in OVER and job.kind == "prepare":
                self._end(job, JobState.FAILED, code="hub_restarted", message="the hub restarted; nothing was moved")

    def _end(self, job: Job, state: JobState, **update: Any) -> Job:
        ended = job.model_copy(update={"state": state, "ended_ms": self._hub.now_ms(), **update})
        self.put(ended)
        log.info("job over job=%s kind=%s state=%s code=%s", job.id, job.kind, state.value, ended.code)
        return ended

    # ---- asking for work -----------------------------------------------------------------------------------

    async def submit(self, request: JobRequest, by: str) -> Job:
        """Queue a job. The same idempotency key again is the same job.

        Raises: Refused when what the spec names is not registered.
        """
        if request.idempotency_key:
            digest = hashlib.sha256(request.idempotency_key.encode()).hexdigest()
            job_id = f"j{digest[:16]}"
            known = self._jobs.get(job_id) or await self._hub.store(lambda s: s.job(job_id))
            if known is not None:
                return known
        else:
            job_id = f"j{secrets.token_hex(8)}"
        spec = request.spec
        self._check(request)
        job = Job(
            id=job_id,
            kind=spec.kind,
            tenant=spec.tenant,
            spec=spec,
            labels=request.labels,
            priority=request.priority,
            memory_gb=request.memory_gb,
            state=JobState.QUEUED,
            created_ms=self._hub.now_ms(),
            by=by,
        )
        await self._hub.store(lambda s: s.put_job(job))
        self.put(job, durable=False)
        self.assign()
        return self._jobs[job.id]

    def _check(self, request: JobRequest) -> None:
        hub, spec = self._hub, request.spec
        tenant = hub.tenant(spec.tenant)
        if tenant.offboarded:
            raise Refused("offboarded", f"{tenant.name} is offboarded")
        match spec:
            case PrepareSpec():
                raise Refused("invalid_request", "prepares are made by promotes", detail="spec.kind")
            case TrainSpec():
                if spec.base not in hub.catalogue.bases:
                    raise Refused("unknown_base", "no such base is registered", detail=spec.base)
                datasets.check_training(hub, spec.tenant, spec.datasets)
                datasets.check_descent(hub, parent=spec.parent)
                parent = hub.catalogue.adapters.get(spec.parent) if spec.parent else None
                if spec.parent and (parent is None or parent.manifest.tenant != spec.tenant):
                    raise Refused("unknown_adapter", "this tenant has no such adapter version", detail=spec.parent)
                if parent is not None and parent.manifest.base != spec.base:
                    raise Refused("wrong_base", "the parent adapter was trained on another base", detail=spec.base)
            case EvaluateSpec():
                hub.catalogue.known(spec.tenant, spec.release)
                suite = hub.catalogue.suites.get(spec.suite)
                if suite is None or suite.tenant != spec.tenant:
                    raise Refused("unknown_suite", "this tenant has no such suite", detail=spec.suite)

            case MergeSpec():
                merging.mergeable(hub, spec.tenant, spec.release)

    async def cancel(self, job_id: str, by: str) -> Job:
        """Stop a job. What has ended already is answered as it is."""
        job = await self.known(job_id)
        if job.state in OVER:
            return job
        if job.kind == "prepare":
            self._hub.promotions.cancel(job_id, by)
            return self._jobs[job_id]
        node = self._hub.fleet.nodes.get(job.node) if job.node else None
        if job.state is JobState.QUEUED or node is None or node.link is None:
            # Its node cannot be told now. The lease goes on, so what it says later is refused.
            update = {"code": "cancelled", "message": f"cancelled by {by}", "lease": job.lease + 1}
            return self._end(job, JobState.CANCELLED, **update)
        self._cancelling.add(job.id)
        node.link.put_message(JobCancel(job=job.id, lease=job.lease))
        self.put(job.model_copy(update={"message": f"being cancelled by {by}"}))
        return self._jobs[job.id]

    async def resume(self, job_id: str, by: str) -> Job:
        """Queue a failed or cancelled job again, as its next attempt. One that is under way is answered as it is.

        Raises: Refused `job_over` for one that is done or a prepare, or what `submit` would refuse now.
        """
        job = await self.known(job_id)
        if job.kind == "prepare":
            raise Refused("job_over", "a prepare belongs to its promote", detail=job.id, fix="promote again")
        if job.state is JobState.DONE:
            raise Refused("job_over", "the job is done", detail=job.id, fix="submit another one")
        if job.state not in OVER:
            return job
        self._check(JobRequest(spec=job.spec, labels=job.labels))
        self._counted_from[job.id] = job.attempt
        fresh: dict[str, Any] = dict.fromkeys(("node", "started_ms", "ended_ms", "code", "step", "of", "result"))
        update = {
            "state": JobState.QUEUED,
            "lease": job.lease + 1,
            "message": f"resumed by {by}",
            "metrics": {},
            "log": "",
        }
        self.put(job.model_copy(update=fresh | update))
        log.info("job resumed job=%s by=%s attempts=%d", job.id, by, job.attempt)
        self.assign()
        return self._jobs[job.id]

    # ---- giving it out -------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Give queued jobs to nodes that can do them, by priority and age; take back what no node is doing."""
        self._take_back()
        busy = {j.node for j in self._jobs.values() if j.kind != "prepare" and j.state in _GIVEN}
        for job in in_order(j for j in self._jobs.values() if j.state is JobState.QUEUED and j.kind != "prepare"):
            node = self._fitting(job, busy)
            if node is not None:
                busy.add(node.name)
                self._give(job, node)

    def _fitting(self, job: Job, busy: set[str | None]) -> Node | None:
        base = self._base(job)
        before = self._was_on.get(job.id)  # its checkpoints are there, as far as it made any
        for node in sorted(self._hub.fleet.linked(), key=lambda n: (n.name != before, n.name)):
            ready = node.behind is None and not node.cordoned and not node.drained and node.name not in busy
            up = any(r.base == base and r.state is EngineState.UP for r in node.replicas)
            if ready and up and fits(node.labels, job.labels) and has_memory(job.memory_gb, node.host, node.gpus):
                return node
        return None

    def _base(self, job: Job) -> str | None:
        if isinstance(job.spec, TrainSpec):
            return job.spec.base
        release = self._hub.catalogue.release(job.spec.release, job.tenant)
        if release is None:
            return None
        return release.served_base if isinstance(job.spec, EvaluateSpec) else release.base

    def _give(self, job: Job, node: Node) -> None:
        given = job.model_copy(
            update={
                "state": JobState.ASSIGNED,
                "node": node.name,
                "lease": job.lease + 1,
                "attempt": job.attempt + 1,
                "message": "",
                "step": None,
            }
        )
        self.put(given)
        self._was_on[job.id] = node.name
        assert node.link is not None
        node.link.put_message(JobMessage(job=self._assignment(given)))
        log.info("job given job=%s kind=%s node=%s attempt=%d", job.id, job.kind, node.name, given.attempt)

    def _assignment(self, job: Job) -> JobAssignment:
        ref: ReleaseRef | None = None
        canaries: tuple[tuple[dict[str, str], ...], ...] = ()
        if isinstance(job.spec, EvaluateSpec | MergeSpec):
            release = self._hub.catalogue.known(job.tenant, job.spec.release)
            ref = ReleaseRef(id=release.id, release=release, label=release.label)
            canaries = self._hub.config((job.tenant, job.spec.route)).canaries
        held_out: tuple[str, ...] = ()
        if isinstance(job.spec, TrainSpec):
            canaries = self._hub.config((job.tenant, "production")).canaries
            suites = self._hub.catalogue.suites.items()
            held_out = tuple(digest for digest, suite in suites if suite.tenant == job.tenant)
        return JobAssignment(
            id=job.id,
            lease=job.lease,
            attempt=job.attempt,
            spec=job.spec,
            release=ref,
            canaries=canaries,
            held_out=held_out,
            checkpoint=job.checkpoint,
        )

    def _again(self, job: Job, why: str, code: str) -> None:
        """An attempt came to nothing: queue it once more, or give up."""
        before = self._counted_from.get(job.id, 0)
        if not tried_again(code, job.attempt, before):
            last = before + ATTEMPTS
            self._end(job, JobState.FAILED, code=code, message=f"{why}, at attempt {job.attempt} of {last}")
            return
        log.warning("job queued again job=%s node=%s why=%s", job.id, job.node, why)
        update = {"state": JobState.QUEUED, "node": None, "lease": job.lease + 1, "message": f"again: {why}"}
        self.put(job.model_copy(update=update))

    def lost(self, nodes: Collection[str]) -> None:
        """Nodes passed their TTL: their jobs go to others, under a new lease."""
        for job in [j for j in self._jobs.values() if j.node in nodes and j.state in _GIVEN]:
            if job.id in self._cancelling:
                self._end(job, JobState.CANCELLED, code="cancelled", lease=job.lease + 1)
            else:
                self._again(job, f"{job.node} was lost", "node_lost")

    def hello(self, link: Link, hello: Hello) -> None:
        """A node says which jobs it is still running: those that are no longer its own are to stop."""
        running = dict(hello.jobs)
        for job_id, lease in hello.jobs:
            job = self._jobs.get(job_id)
            if job is None or job.lease != lease or job.state in OVER:
                link.put_message(JobCancel(job=job_id, lease=lease))
        now = self._hub.clock()
        for job in self._jobs.values():
            if job.node == hello.node and job.state in _GIVEN:
                if job.id in running:
                    self._absent.pop(job.id, None)
                else:
                    self._absent.setdefault(job.id, now)  # it may have ended, and is about to say so
        self._hub.promotions.hello(link)

    def _take_back(self) -> None:
        limit = self._hub.clock() - LINK_TTL_S
        for job_id in [j for j, since in self._absent.items() if since < limit]:
            del self._absent[job_id]
            job = self._jobs.get(job_id)
            node = self._hub.fleet.nodes.get(job.node) if job and job.node else None
            if job is not None and job.state in _GIVEN and node is not None and node.linked:
                self._again(job, f"{node.name} no longer runs it", "job_lost")

    # ---- what executors say --------------------------------------------------------------------------------

    def event(self, node: Node, message: JobEvent) -> None:
        """One event of a job. Under an older lease, or of another node's job, it changes nothing."""
        job, event = self._jobs.get(message.job), message.event
        if job is not None and job.kind == "prepare":
            self._hub.promotions.event(node, message)
            return
        stale = job is None or job.lease != message.lease or job.node != node.name
        if job is None or stale or job.state in OVER:
            if stale:
                log.warning("job event refused code=stale_lease job=%s node=%s", message.job, node.name)
                if node.link is not None and event.type in _ALIVE:
                    node.link.put_message(JobCancel(job=message.job, lease=message.lease))
            return
        self._absent.pop(job.id, None)
        new = self._remember(job.id, event)
        if event.type not in TERMINAL and node.link is not None:
            node.link.put_message(JobNoted(job=job.id, lease=job.lease, seq=event.seq))
        if not new and event.type not in TERMINAL:
            return  # sent again after a link was lost
        match event.type:
            case ExecutorEventType.FINISHED:
                if job.id not in self._closing:
                    self._closing.add(job.id)
                    self._hub.spawn(self._finish(job, message))
            case ExecutorEventType.FAILED:
                self._failed(job, event)
                self.assign()
            case ExecutorEventType.PREEMPTED:
                if job.id in self._cancelling or event.code == "cancelled":
                    self._end(job, JobState.CANCELLED, code="cancelled", message=job.message or event.message)
                else:
                    if node.drained:
                        self._counted_from[job.id] = self._counted_from.get(job.id, 0) + 1
                    self._again(job, f"{node.name} was drained" if node.drained else "it was preempted", "preempted")
                self.assign()
            case _:
                self._progress(job, event)

    def printed(self, node: Node, message: JobLog) -> None:
        """Lines that a job's executor printed. Under an older lease, or of another node's job, they are left out."""
        job = self._jobs.get(message.job)
        if job is not None and job.lease == message.lease and job.node == node.name:
            self.logs.take(message)

    def _failed(self, job: Job, event: ExecutorEvent) -> None:
        """An attempt failed: after a crash another one goes on from its last checkpoint; else the job is over."""
        code = event.code or "failed"
        if tried_again(code, job.attempt, self._counted_from.get(job.id, 0)) and job.id not in self._cancelling:
            self._again(job, event.message, code)
            return
        log = str(event.data.get("log", ""))[-LOG_CHARS:]
        self._end(job, JobState.FAILED, code=code, message=event.message, log=log)

    def _remember(self, job_id: str, event: ExecutorEvent) -> bool:
        """Keeps an event, in its place. False: it is kept already."""
        kept = self._events.setdefault(job_id, deque(maxlen=KEPT_EVENTS))
        if event in kept:
            return False
        kept.append(event)
        if len(kept) > 1 and (event.attempt, event.seq) < (kept[-2].attempt, kept[-2].seq):
            kept = self._events[job_id] = deque(sorted(kept, key=lambda e: (e.attempt, e.seq)), maxlen=KEPT_EVENTS)
        return True

    def _progress(self, job: Job, event: ExecutorEvent) -> None:
        update: dict[str, Any] = {"state": JobState.RUNNING}
        if job.started_ms is None:
            update["started_ms"] = self._hub.now_ms()
        if event.step is not None and event.step >= (job.step or 0):
            update["step"] = event.step
        if event.of is not None:
            update["of"] = event.of
        if event.metrics:
            update["metrics"] = {**job.metrics, **event.metrics}  # a look at held-back rows does not hide the loss
        if event.message:
            update["message"] = event.message
        durable = job.state is not JobState.RUNNING
        if event.type is ExecutorEventType.CHECKPOINT and event.step is not None and "files" in event.data:
            update["checkpoint"] = CheckpointRef(step=event.step, files=event.data["files"])
            durable = True
        self.put(job.model_copy(update=update), durable=durable)

    async def _finish(self, job: Job, message: JobEvent) -> None:
        """Take in a job's result; done only when all of it is durable."""
        try:
            result = message.result or {}
            if isinstance(job.spec, EvaluateSpec):
                result = await self._evaluated(job, job.spec, result)
            elif isinstance(job.spec, TrainSpec):
                self._trained(job.spec, result)
            elif isinstance(job.spec, MergeSpec):
                result = await merging.take_in(self._hub, job, job.spec, result)
        except Refused as refused:
            self._end(job, JobState.FAILED, code=refused.code, message=f"{refused.title} {refused.detail}".strip())
        except ValidationError as error:
            self._end(job, JobState.FAILED, code="bad_report", message=str(error.errors()[0]["msg"]))
        except StoreError as error:
            self._end(job, JobState.FAILED, code=error.code, message=str(error))
        else:
            event = message.event
            update: dict[str, Any] = {"result": result, "message": event.message, "code": None, "checkpoint": None}
            if event.metrics:
                update["metrics"] = event.metrics
            current = self._jobs.get(job.id, job)
            if current.of is not None:
                update["step"] = current.of
            self._end(current, JobState.DONE, **update)
        finally:
            self._closing.discard(job.id)
            self.assign()

    def _trained(self, spec: TrainSpec, result: dict[str, Any]) -> None:
        if spec.weights is Weights.FULL:
            if not re.fullmatch("[0-9a-f]{64}", str(result.get("base"))):
                raise Refused("bad_report", "the job says it is done, and names no base that it made")
            return
        version = self._hub.catalogue.adapters.get(str(result.get("adapter")))
        if version is None or version.manifest.tenant != spec.tenant or version.release != result.get("release"):
            raise Refused("bad_report", "the job says it is done, and its adapter version is not registered")

    async def _evaluated(self, job: Job, spec: EvaluateSpec, result: dict[str, Any]) -> dict[str, Any]:
        if "report" not in result:
            raise Refused("bad_report", "the evaluation came without a report")
        by = f"job {job.id}"
        common: dict[str, Any] = {"subject": spec.release, "tenant": spec.tenant, "by": by, "at_ms": self._hub.now_ms()}
        report = Attestation(kind=AttestationKind.EVALUATION, route=spec.route, body=result["report"], **common)
        if report.body.get("suite") != spec.suite:
            raise Refused("bad_report", "the report is on another suite than the job's")
        if "canary" in result and result["canary"]["items"]:
            canary = Attestation(kind=AttestationKind.CANARY, body=result["canary"], **common)
            await gates.take_in(self._hub, canary)
        written = await gates.take_in(self._hub, report)
        gate = self._hub.facts.gate((spec.tenant, spec.route), spec.release)
        body = result["report"]
        summary = {"report": written.seq, "n": body["n"], "exact": body["exact"], "valid": body["valid"]}
        return {**summary, "gate": gate.model_dump(mode="json") if gate else None}


_GIVEN = frozenset({JobState.ASSIGNED, JobState.RUNNING})
_ALIVE = frozenset({ExecutorEventType.STARTED, ExecutorEventType.PROGRESS, ExecutorEventType.HEARTBEAT})


def _piece(before: str | None) -> Callable[[Store], list[Job]]:
    return lambda store: store.jobs_before(before, limit=PIECE)
