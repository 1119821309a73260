"""The queue of jobs: which node runs which job, under which lease, and what happens when an attempt ends.

Train, evaluate and merge jobs wait for a linked node with the labels they ask for, their base, and what they need
beside the jobs that it has (`rules.scheduling.shortage`); a node that submits to a scheduler takes so many at once. A
lease fences: messages under an older one are refused. Prepares are run by `promotion`.
"""

import hashlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from loradeck.artifacts import BadArtifact
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.jobs.job_records import JobLogs, JobRecords
from loradeck.hub.jobs.job_specs import JobSpecs
from loradeck.hub.jobs.promotion import Promotions
from loradeck.hub.jobs.results import Results
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.rules.errors import Refused
from loradeck.rules.scheduling import ATTEMPTS, counts, gpus_of, in_order, kept_node, shortage, tried_again
from loradeck.rules.serving.placement import fits
from loradeck.schemas.executor import TERMINAL, ExecutorEvent, ExecutorEventType
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import LINE
from loradeck.schemas.jobs import (
    MEASUREMENTS,
    OVER,
    CheckpointRef,
    EvaluateSpec,
    Job,
    JobRequest,
    JobSpec,
    JobState,
    JudgeSpec,
    LeakSpec,
    ProveSpec,
    TrainSpec,
    level_of,
)
from loradeck.schemas.link import HERE, Hello, JobCancel, JobEvent, JobLog, JobMessage, JobNoted, Report
from loradeck.schemas.replica_state import LINK_TTL_S, EngineState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.jobs.queue")

Overridden = Callable[[str, tuple[Refused, ...]], Awaitable[None]]
"""Records that a job, by its id, is queued although it is refused for these training freezes."""

LOG_CHARS = 2000
"""Characters of a failed job's log that are kept with the job."""


def job_id(idempotency_key: str) -> str:
    """The id of the job that is submitted under an idempotency key."""
    return f"j{hashlib.sha256(idempotency_key.encode()).hexdigest()[:16]}"


@dataclass(eq=False)
class Queue:
    """Submits jobs, assigns them to nodes, and follows their attempts."""

    _fleet: Fleet
    _jobs: JobRecords
    _specs: JobSpecs
    _promotions: Promotions
    _results: Results
    _background: Background
    _clock: Clock
    logs: JobLogs = field(default_factory=JobLogs, init=False)
    _cancelling: set[str] = field(default_factory=set, init=False)
    _absent: dict[str, float] = field(default_factory=dict, init=False)
    """Job -> since when its node is linked without running it; monotonic seconds."""
    _coming: list[JobSpec] = field(default_factory=list, init=False)
    """The specs of jobs that were checked and are being written."""
    _closing: set[str] = field(default_factory=set, init=False)
    _was_on: dict[str, str] = field(default_factory=dict, init=False)
    """Job -> the node of its last attempt, where its checkpoints lie."""

    # ---- submitting ----------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest, by: str, overridden: Overridden) -> Job:
        """Queues a job. The same idempotency key once more gives the same job.

        `overridden`: records that the request passes training freezes, before the job is queued.

        Raises: Refused when the spec names something that is not registered, or `training_frozen`.
        """
        new_id = f"j{secrets.token_hex(8)}"
        if request.idempotency_key:
            new_id = job_id(request.idempotency_key)
            known = await self._jobs.find_one(new_id)
            if known is not None:
                return known
        spec = request.spec
        self._check(request)
        frozen = self._specs.frozen(spec)
        if frozen and not request.override:
            raise next(iter(frozen.values()))
        self._coming.append(spec)
        try:
            if frozen:
                await overridden(new_id, tuple(frozen.values()))
            await self._jobs.add(self._queued(request, new_id, by, frozen))
        finally:
            self._coming.remove(spec)
        self.assign()
        return await self._jobs.known(new_id)

    def _queued(self, request: JobRequest, job_id: str, by: str, frozen: Collection[str]) -> Job:
        spec = request.spec
        return Job(
            id=job_id,
            kind=spec.kind,
            tenant=spec.tenant,
            spec=spec,
            labels=request.labels,
            priority=request.priority,
            memory_gb=request.memory_gb,
            state=JobState.QUEUED,
            created_ms=self._clock.now_ms(),
            by=by,
            override=request.override if frozen else "",
            passes=tuple(frozen),
        )

    def _check(self, request: JobRequest) -> None:
        node = self._fleet.nodes.get(request.spec.node) if isinstance(request.spec, ProveSpec) else None
        unfinished = [*(job.spec for job in self._jobs if job.state not in OVER), *self._coming]
        served = node.bases if node is not None else ()
        self._specs.check(request, served, unfinished=unfinished)

    async def cancel(self, job_id: str, by: str) -> Job:
        """Stops a job. One that has ended already is returned as it is."""
        job = await self._jobs.known(job_id)
        if job.state in OVER:
            return job
        if job.kind == "prepare":
            self._promotions.cancel(job_id, by)
            return self._jobs.get(job_id) or job
        node = self._fleet.nodes.get(job.node) if job.node else None
        if job.state is JobState.QUEUED or node is None or node.link is None:
            # Nothing can be sent to its node now. The lease grows, so messages that it sends later are refused.
            update = {"code": "cancelled", "message": f"cancelled by {by}", "lease": job.lease + 1}
            return self._end(job, JobState.CANCELLED, **update)
        self._cancelling.add(job.id)
        node.link.put_message(JobCancel(job=job.id, lease=job.lease))
        self._jobs.put(job.model_copy(update={"message": f"being cancelled by {by}"}))
        return self._jobs.get(job.id) or job

    async def resume(self, job_id: str, by: str) -> Job:
        """Queues a failed or cancelled job again, as its next attempt. An unfinished job is returned as it is.

        Raises: Refused `job_over` for one that is done or a prepare, or whatever `submit` would refuse now.
        """
        job = await self._jobs.known(job_id)
        if job.kind == "prepare":
            raise Refused("job_over", "a prepare belongs to its promote", detail=job.id, fix="promote again")
        if job.state is JobState.DONE:
            raise Refused("job_over", "the job is done", detail=job.id, fix="submit another one")
        if job.state not in OVER:
            return job
        self._check(JobRequest(spec=job.spec, labels=job.labels))
        if (frozen := self._frozen(job)) is not None:
            raise frozen
        fresh: dict[str, Any] = dict.fromkeys(("node", "started_ms", "ended_ms", "code", "step", "of", "result"))
        update = {
            "earlier_ms": job.ran_ms(job.ended_ms),
            "counted_from": job.attempt,
            "state": JobState.QUEUED,
            "lease": job.lease + 1,
            "message": f"resumed by {by}",
            "metrics": {},
            "log": "",
        }
        self._jobs.put(job.model_copy(update=fresh | update))
        log.info("job resumed job=%s by=%s attempts=%d", job.id, by, job.attempt)
        self.assign()
        return self._jobs.get(job.id) or job

    def fail_interrupted(self) -> None:
        """Fails the prepares that the last run of the hub left unfinished: they committed nothing."""
        for job in list(self._jobs):
            if job.state not in OVER and job.kind == "prepare":
                self._end(job, JobState.FAILED, code="hub_restarted", message="the hub restarted; nothing was moved")

    def _end(self, job: Job, state: JobState, **update: Any) -> Job:
        self._cancelling.discard(job.id)
        self._absent.pop(job.id, None)
        if job.scheduled is not None:  # what it said last is no news any more
            update["scheduled"] = job.scheduled.model_copy(update={"state": "", "reason": ""})
        ended = self._jobs.end(job, state, **update)
        self._was_on = {j: node for j, node in self._was_on.items() if self._jobs.get(j) is not None}
        return ended

    # ---- assigning -----------------------------------------------------------------------------------------

    def _frozen(self, job: Job) -> Refused | None:
        held = self._specs.frozen(job.spec)
        return next((refused for digest, refused in held.items() if digest not in job.passes), None)

    def assign(self) -> None:
        """Assigns queued jobs to nodes that can run them, by priority and age, after taking back lost ones."""
        self._take_from_lost()
        self._take_back()
        given = defaultdict[str, list[Job]](list)
        kept: tuple[str, str] | None = None
        for job in self._jobs:
            if job.kind != "prepare" and job.state in _GIVEN and job.node is not None:
                given[job.node].append(job)
        for job in in_order(job for job in self._jobs if job.state is JobState.QUEUED and job.kind != "prepare"):
            base, frozen = self._specs.base(job), self._frozen(job)
            nodes, why = self._open_to(job, base, kept)
            node = pick_node(job, base, nodes, given, self._was_on.get(job.id))
            if node is not None and frozen is None:
                given[node.name].append(self._give(job, node))
                continue
            if frozen is not None:
                why = f"{_WAITS} {frozen.title}: {frozen.detail}"[:LINE]
            else:
                why = why or why_waits(job, base, nodes, given)
                kept = kept or self._kept(job, base, nodes)
            if why != job.message and (why or job.message.startswith((_TOO_OLD, _WAITS))):
                self._jobs.put(job.model_copy(update={"message": why}))

    def _open_to(self, job: Job, base: str | None, kept: tuple[str, str] | None) -> tuple[list[Node], str]:
        """The linked nodes that a job may go to, and why others that suit it are left out.

        `kept`: the node whose GPUs are kept, and the job for which.
        """
        nodes, why = list(self._fleet.linked()), ""
        if kept is not None and gpus_of(job):
            if any(node.name == kept[0] and _suits(job, base, node) for node in nodes):
                why = f"{_WAITS} the GPUs of {kept[0]} are kept for {kept[1]}, which waits longer"
            nodes = [node for node in nodes if node.name != kept[0]]
        unread = {node.name: named for node in nodes if (named := self._specs.unread(job, node.recipes))}
        if unread:
            old = sorted(node.name for node in nodes if node.name in unread and _suits(job, base, node))
            nodes = [node for node in nodes if node.name not in unread]
            if old and not any(_suits(job, base, node) for node in nodes):
                rows = ", ".join(unread[old[0]])
                why = f"{_TOO_OLD}: those of {', '.join(old)} cannot read what the rows of {rows} say of themselves"
        return nodes, why[:LINE]

    def _kept(self, job: Job, base: str | None, nodes: Iterable[Node]) -> tuple[str, str] | None:
        """The node whose GPUs are kept for a job that waits, and the job; None: none are."""
        reading = (node for node in nodes if node.recipes >= level_of(job.spec) and _suits(job, base, node))
        suiting = {node.name: (node.room, node.gpus) for node in reading if node.room}
        name = kept_node(job, self._clock.now_ms(), suiting)
        return (name, job.id) if name is not None else None

    def _give(self, job: Job, node: Node) -> Job:
        given = job.model_copy(
            update={
                "state": JobState.ASSIGNED,
                "node": node.name,
                "lease": job.lease + 1,
                "attempt": job.attempt + 1,
                "message": "",
                "step": None,
                "scheduled": None,
                "began": _step(job),
            }
        )
        self._jobs.put(given)
        self._was_on[job.id] = node.name
        assert node.link is not None
        node.link.put_message(JobMessage(job=self._specs.assignment(given)))
        log.info("job given job=%s kind=%s node=%s attempt=%d", job.id, job.kind, node.name, given.attempt)
        return given

    def _again(self, job: Job, why: str, code: str) -> None:
        """Queues a job once more after a failed attempt, or gives up."""
        if not tried_again(code, job.attempt, job.counted_from):
            last = job.counted_from + ATTEMPTS
            self._end(job, JobState.FAILED, code=code, message=f"{why}, at attempt {job.attempt} of {last}")
            return
        log.warning("job queued again job=%s node=%s why=%s", job.id, job.node, why)
        update = {"state": JobState.QUEUED, "node": None, "lease": job.lease + 1, "message": f"again: {why}"}
        ran = {"started_ms": None, "earlier_ms": job.ran_ms(self._clock.now_ms())}
        self._jobs.put(job.model_copy(update=update | ran))

    def _take_from_lost(self) -> None:
        """Gives the jobs of nodes that are silent for `LINK_TTL_S` to others, under a new lease."""
        names = {node.name for node in self._fleet.nodes.values() if self._fleet.silent_s(node) > LINK_TTL_S}
        for job in [job for job in self._jobs if job.node in names and job.state in _GIVEN]:
            if job.id in self._cancelling:
                self._end(job, JobState.CANCELLED, code="cancelled", lease=job.lease + 1)
            else:
                self._again(job, f"{job.node} was lost", "node_lost")

    def joined(self, node: Node, hello: Hello) -> None:
        """Cancels the jobs that a node runs without holding their lease any more, and gives it its prepares."""
        running = dict(hello.jobs)
        for job_id, lease in hello.jobs:
            job = self._jobs.get(job_id)
            if (job is None or job.lease != lease or job.state in OVER) and node.link is not None:
                node.link.put_message(JobCancel(job=job_id, lease=lease))
        now = self._clock.monotonic()
        for job in self._jobs:
            if job.node == hello.node and job.state in _GIVEN:
                if job.id in running:
                    self._absent.pop(job.id, None)
                else:
                    self._absent.setdefault(job.id, now)  # it may have ended, with its last event still to come
        self._promotions.joined(node)

    def _take_back(self) -> None:
        limit = self._clock.monotonic() - LINK_TTL_S
        for job_id in [j for j, since in self._absent.items() if since < limit]:
            del self._absent[job_id]
            job = self._jobs.get(job_id)
            node = self._fleet.nodes.get(job.node) if job and job.node else None
            if job is not None and job.state in _GIVEN and node is not None and node.linked:
                self._again(job, f"{node.name} no longer runs it", "job_lost")

    def inputs(self, node: str) -> frozenset[str]:
        """The datasets and suites that the jobs name whose leases a node holds."""
        held = (job for job in self._jobs if job.node == node and job.state in _GIVEN)
        return frozenset[str]().union(*(self._specs.inputs(job) for job in held))

    def leases(self, node: str) -> frozenset[str]:
        """The jobs whose leases a node holds."""
        return frozenset(job.id for job in self._jobs if job.node == node and job.state in _GIVEN)

    def tenants(self, node: str) -> set[str]:
        """The tenants of the jobs whose leases a node holds."""
        return {job.tenant for job in self._jobs if job.node == node and job.state in _GIVEN}

    # ---- messages of executors -----------------------------------------------------------------------------

    def event(self, node: Node, message: JobEvent) -> None:
        """Handles one event of a job. Under an older lease, or for another node's job, it changes nothing."""
        job, event = self._jobs.get(message.job), message.event
        if job is not None and job.kind == "prepare":
            self._promotions.event(node, message)
            return
        stale = job is None or job.lease != message.lease or job.node != node.name
        if job is None or stale or job.state in OVER:
            if stale:
                log.warning("job event refused: its lease is over job=%s node=%s", message.job, node.name)
                if node.link is not None and event.type in _ALIVE:
                    node.link.put_message(JobCancel(job=message.job, lease=message.lease))
            return
        self._absent.pop(job.id, None)
        new = self._jobs.add_event(job.id, event)
        if event.type not in TERMINAL and node.link is not None:
            node.link.put_message(JobNoted(job=job.id, lease=job.lease, seq=event.seq))
        if not new and event.type not in TERMINAL:
            return  # sent again after a link was lost
        match event.type:
            case ExecutorEventType.FINISHED:
                if job.id not in self._closing:
                    self._closing.add(job.id)
                    self._background.spawn(self._finish(job, message))
            case ExecutorEventType.FAILED:
                self._failed(job, event)
                self.assign()
            case ExecutorEventType.PREEMPTED:
                if job.id in self._cancelling or event.code == "cancelled":
                    self._end(job, JobState.CANCELLED, code="cancelled", message=job.message or event.message)
                else:
                    if not counts(drained=node.drained, began=job.began, reached=_step(job)):
                        job = job.model_copy(update={"counted_from": job.counted_from + 1})
                    self._again(job, f"{node.name} was drained" if node.drained else "it was preempted", "preempted")
                self.assign()
            case _:
                self._progress(job, event)

    def scheduled(self, node: Node, report: Report) -> None:
        """Keeps what the scheduler of a node says of its jobs. Under an older lease, it changes nothing."""
        for job_id, lease, said in report.scheduled:
            job = self._jobs.get(job_id)
            held = job is not None and (job.node, job.lease) == (node.name, lease) and job.state in _GIVEN
            if job is not None and held and job.scheduled != said:
                new = job.scheduled is None or job.scheduled.id != said.id
                self._jobs.put(job.model_copy(update={"scheduled": said}), durable=new)

    def printed(self, node: Node, message: JobLog) -> None:
        """Keeps lines that a job's executor printed. Those under an older lease, or for another node's job, are not."""
        job = self._jobs.get(message.job)
        if job is not None and job.lease == message.lease and job.node == node.name:
            self.logs.take(message)

    def _failed(self, job: Job, event: ExecutorEvent) -> None:
        """Ends a failed attempt: after a crash another one goes on from its last checkpoint; else the job is over."""
        code = event.code or "failed"
        if tried_again(code, job.attempt, job.counted_from) and job.id not in self._cancelling:
            self._again(job, event.message, code)
            return
        printed = str(event.data.get("log", ""))[-LOG_CHARS:]
        self._end(job, JobState.FAILED, code=code, message=event.message, log=printed)

    def _progress(self, job: Job, event: ExecutorEvent) -> None:
        update: dict[str, Any] = {"state": JobState.RUNNING}
        if job.started_ms is None:
            update["started_ms"] = self._clock.now_ms()
        if event.step is not None and event.step >= (job.step or 0):
            update["step"] = event.step
        if event.of is not None:
            update["of"] = event.of
        if event.metrics:
            metrics = {**job.metrics, **event.metrics}  # figures of held-back rows do not hide the loss
            update["metrics"] = dict(list(metrics.items())[:MEASUREMENTS])
        if event.message:
            update["message"] = event.message
        durable = job.state is not JobState.RUNNING
        if event.type is ExecutorEventType.CHECKPOINT and event.step is not None and "files" in event.data:
            try:
                update["checkpoint"] = CheckpointRef(step=event.step, files=event.data["files"])
                durable = True
            except ValidationError as error:
                why = first_wrong(error, "data")
                log.warning("a checkpoint is not kept job=%s node=%s: %s", job.id, job.node, why)
                update["message"] = f"its checkpoint at step {event.step} cannot be read: {why}"[:LINE]
        self._jobs.put(job.model_copy(update=update), durable=durable)

    async def _finish(self, job: Job, message: JobEvent) -> None:
        """Ends a finished job: done only when all of its result is durable."""
        try:
            result, event = await self._results.register(job, message.result or {}), message.event
            update: dict[str, Any] = {"result": result, "message": event.message, "code": None, "checkpoint": None}
            if event.metrics:
                update["metrics"] = event.metrics
            current = self._jobs.get(job.id) or job
            if current.of is not None:
                update["step"] = current.of
            self._end(current, JobState.DONE, **update)
        except (Refused, BadArtifact, StoreError) as error:
            why = f"{error.title} {error.detail}".strip() if isinstance(error, Refused) else str(error)
            self._end(job, JobState.FAILED, code=error.code, message=why)
        except Exception:  # whatever a node has sent: a job that nobody ends would wait for ever
            log.exception("a result could not be taken job=%s node=%s", job.id, job.node)
            why = "the hub could not take the result; its log says why"
            self._end(job, JobState.FAILED, code="internal_error", message=why)
        finally:
            self._closing.discard(job.id)
            self.assign()


_TOO_OLD, _WAITS = "waits for a newer agent", "waits:"
_GIVEN = frozenset({JobState.ASSIGNED, JobState.RUNNING})
_ALIVE = frozenset({ExecutorEventType.STARTED, ExecutorEventType.PROGRESS, ExecutorEventType.HEARTBEAT})


def _step(job: Job) -> int:
    return job.checkpoint.step if job.checkpoint is not None else 0


Given = Mapping[str, Sequence[Job]]
"""Node -> the jobs that it was given and that are not over."""


def pick_node(job: Job, base: str | None, linked: Iterable[Node], given: Given, before: str | None) -> Node | None:
    """The node that a queued job goes to; None: no linked node can run it now.

    Args:
        base: the base that an engine of the node must be up with, or that jobs alone read there.
        before: the node of the job's last attempt, where its checkpoints lie: it comes first.
    """
    for node in sorted(linked, key=lambda n: (n.name != before, n.name)):
        reads = node.recipes >= level_of(job.spec)
        if reads and _suits(job, base, node) and not _shortage(job, node, given.get(node.name, ())):
            return node
    return None


def why_waits(job: Job, base: str | None, linked: Iterable[Node], given: Given) -> str:
    """Says why a queued job waits, where it is for no other job: agents too old for it, or what their nodes lack."""
    suiting = sorted((node for node in linked if _suits(job, base, node)), key=lambda node: node.name)
    reading = [node for node in suiting if node.recipes >= level_of(job.spec)]
    if suiting and not reading:
        return f"{_TOO_OLD}: those of {', '.join(node.name for node in suiting)} cannot read it"[:LINE]
    if any(given.get(node.name) for node in reading):
        return ""
    lacks = [f"{node.name}: {why}" for node in reading if (why := _shortage(job, node, ()))]
    return f"{_WAITS} {'; '.join(lacks)}"[:LINE] if lacks else ""


def _shortage(job: Job, node: Node, given: Sequence[Job]) -> str:
    """Says what a node lacks for a job beside others; of one that submits elsewhere only how many it takes counts."""
    if (backend := node.backend) is not None and backend.system != HERE:
        return f"it takes {backend.at_once} at once" if len(given) >= backend.at_once else ""
    return shortage(job, given, node.room, node.host, node.gpus)


def _reads_alone(job: Job, base: str | None) -> frozenset[str] | None:
    """The bases that a job reads where no engine is asked; None: it asks one."""
    spec = job.spec
    offline = isinstance(spec, EvaluateSpec | LeakSpec) and spec.offline
    asks = isinstance(spec, GenerateSpec | JudgeSpec | EvaluateSpec | LeakSpec) and not offline
    if base is None or asks or (isinstance(spec, TrainSpec) and spec.asks_teacher):
        return None
    teacher = spec.distillation.teacher if isinstance(spec, TrainSpec) and spec.distillation is not None else base
    return frozenset((base, teacher))


def _suits(job: Job, base: str | None, node: Node) -> bool:
    """Tells whether a node could run a job now, if it had nothing else to do and an agent that can read the job."""
    proves = isinstance(job.spec, ProveSpec)  # also on a node that is cordoned until it is proven
    ready = node.behind is None and not node.drained and (proves or not node.cordoned)
    if isinstance(job.spec, ProveSpec) and job.spec.node != node.name:
        return False
    if not ready or not fits(node.labels, job.labels):
        return False
    if node.backend is not None:
        named = _reads_alone(job, base)
        if named is not None and named <= {*node.backend.bases}:
            return True
    up = any(r.base == base and r.state is EngineState.UP for r in node.replicas)
    if isinstance(job.spec, TrainSpec) and job.spec.distillation is not None:
        teachers = [r.state for r in node.replicas if r.base == job.spec.distillation.teacher]
        up = up and (EngineState.UP in teachers if job.spec.asks_teacher else bool(teachers))
    if isinstance(job.spec, GenerateSpec):
        up = {r.base for r in node.replicas if r.state is EngineState.UP}.issuperset(job.spec.asked.values())
    return up
