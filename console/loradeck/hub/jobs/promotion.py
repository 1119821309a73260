"""Promotes and starts of candidates: each is prepared on every reachable placed replica, checked again, and committed.

A prepare moves nothing. While it is pending, R cancels it, and a hub that restarts has forgotten it.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.jobs.promote_check import PromoteCheck
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.links.table_sender import TableSender
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Registry
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.target_lookup import Prepare, Prepares
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.moves import forward
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.forward import ANSWERED_BY, answers, unanswered
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import Job, JobAssignment, JobState, PrepareSpec
from loradeck.schemas.link import JobCancel, JobEvent, JobMessage
from loradeck.schemas.log import EventKind
from loradeck.schemas.manifest import Release
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.table import ReleaseRef
from loradeck.store.interface import Committed, StoreError

KEPT = 200
"""Ended promotions that are kept in memory under their idempotency keys."""

LOADING_NAMED = 4
"""Nodes that a prepare's message names; the others are counted."""


@dataclass(eq=False)
class Promotion:
    """One promote on its way. `nodes`: name -> whether the release is ready there."""

    id: str
    key: PointerKey
    request: PromoteRequest
    actor: Actor
    release: Release
    nodes: dict[str, bool] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    failure: Refused | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    committed: Committed | None = None
    commit_at: float | None = None
    error: Exception | None = None

    async def wait(self, timeout: float) -> bool:
        """Waits for the end, for `timeout` seconds at most. Returns whether it has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self.over.wait()
        return False

    def result(self) -> Committed:
        """The commit that ended the promote. Raises: whatever else ended it."""
        if self.error is not None:
            raise self.error
        assert self.committed is not None
        return self.committed


@dataclass(eq=False, kw_only=True)
class Promotions:
    """All promotes and starts that have not committed yet, at most one for each pointer."""

    log: Log
    registry: Registry
    fleet: Fleet
    capacity: Capacity
    check: PromoteCheck
    jobs: JobRecords
    prepares: Prepares
    table_sender: TableSender
    moves_allowed: MovesAllowed
    changes: Changes
    background: Background
    clock: Clock
    _by_id: dict[str, Promotion] = field(default_factory=dict, init=False)
    _by_key: dict[str, Promotion] = field(default_factory=dict, init=False)
    failed: dict[PointerKey, Job] = field(default_factory=dict, init=False)
    """The newest prepare of each pointer where it failed, until an event answers it, which is kept with the job."""

    def load(self) -> None:
        """Reads the prepares of earlier runs of the hub."""
        self.failed = unanswered(self.jobs)

    def committed(self, published: Published) -> None:
        """Takes pointers out whose failed promote an event answers; a follower of the log."""
        for event in published.events:
            key = (event.tenant, event.route or "")
            if key in self.failed and answers(event):
                job = self.failed.pop(key)
                self.jobs.put(job.model_copy(update={"result": {**(job.result or {}), ANSWERED_BY: event.id}}))

    def of_key(self, idempotency_key: str) -> Promotion | None:
        """The promote that was begun under an idempotency key; None: none, or it ended long ago."""
        return self._by_key.get(idempotency_key)

    def was_cancelled(self, key: PointerKey, prepare: str) -> bool:
        """Tells whether a prepare of this pointer was cancelled."""
        job = self.jobs.get(prepare)
        spec = job.spec if job else None
        if job is None or not isinstance(spec, PrepareSpec) or (spec.tenant, spec.route) != key:
            return False
        promotion = self._by_id.get(prepare)
        cancelling = promotion is not None and promotion.failure is not None
        return job.state is JobState.CANCELLED or (cancelling and self.prepares.pending(key) != prepare)

    # ---- beginning -----------------------------------------------------------------------------------------

    async def begin(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> Promotion:
        """Begins a promote, or finds the one that this idempotency key has begun.

        Raises: Refused: the rules forbid it, or another one is being prepared; nothing was changed.
        """
        known = self._by_key.get(request.idempotency_key)
        if known is not None:
            return known
        self.moves_allowed.check_event(EventKind.PROMOTE, key)
        await self.check.drafted(key, request, actor)
        await self.registry.use(key[0], request.release, actor.name)
        catalogue = self.registry.catalogue
        release = catalogue.releases[request.release]
        nodes = self.capacity.reachable(key, release)
        if not nodes:
            raise Refused(
                "no_replica",
                f"no placed replica of the base of {catalogue.called(release.id)} is reachable",
                detail=f"{key[0]}/{key[1]}",
                fix="bring a node of this placement back; there is nothing to prepare it on",
            )
        known = self._by_key.get(request.idempotency_key)
        if known is not None:  # the same request came twice, and the other one was faster
            return known
        pending = self.prepares.pending(key)
        if pending is not None:
            raise Refused(
                "prepare_pending",
                "another promote is being prepared on this pointer",
                detail=pending,
                fix="wait for it, or cancel it with R",
                context={"prepare": pending},
            )
        promotion = Promotion(f"p{secrets.token_hex(8)}", key, request, actor, release, dict.fromkeys(nodes, False))
        self.prepares.begin(key, Prepare(promotion.id, release.id))
        self.failed.pop(key, None)
        self._by_id[promotion.id] = self._by_key[request.idempotency_key] = promotion
        self.jobs.put(self._job(promotion))
        self.table_sender.refresh([key])
        self._send(promotion)
        self.changes.now((key,))
        self.background.spawn(self._run(promotion))
        return promotion

    def _job(self, promotion: Promotion) -> Job:
        request = promotion.request
        tenant, route = promotion.key
        spec = PrepareSpec(
            tenant=tenant, route=route, release=request.release, expected_generation=request.expected_generation
        )
        now = self.clock.now_ms()
        return Job(
            id=promotion.id,
            kind="prepare",
            tenant=tenant,
            spec=spec,
            state=JobState.RUNNING,
            lease=1,
            attempt=1,
            created_ms=now,
            started_ms=now,
            by=promotion.actor.name,
            step=0,
            of=len(promotion.nodes),
            message=_loading(promotion),
        )

    def _send(self, promotion: Promotion) -> None:
        """Sends the prepare to the linked nodes that do not have it yet."""
        job = self.jobs.get(promotion.id)
        assert job is not None
        config = self.log.state.config(promotion.key)
        release = promotion.release
        message = JobMessage(
            job=JobAssignment(
                id=job.id,
                lease=job.lease,
                attempt=job.attempt,
                spec=job.spec,
                release=ReleaseRef(id=release.id, release=release, label=release.label),
                canaries=config.canaries,
                swap=bool(self.capacity.memory_short(promotion.key, release)),
            )
        )
        for name, ready in promotion.nodes.items():
            node = self.fleet.nodes.get(name)
            if ready or node is None or node.link is None or name in promotion.sent:
                continue
            promotion.sent.add(name)
            node.link.put_message(message)

    # ---- on its way ----------------------------------------------------------------------------------------

    async def _run(self, promotion: Promotion) -> None:
        key, log_ = promotion.key, self.log
        try:
            while not all(promotion.nodes.values()):
                promotion.changed.clear()
                await promotion.changed.wait()
                if promotion.failure is not None:
                    raise promotion.failure
            async with log_.moving:
                if promotion.failure is not None:
                    raise promotion.failure
                self.moves_allowed.check_event(EventKind.PROMOTE, key)
                draft = await self.check.drafted(key, promotion.request, promotion.actor)
                if not self.capacity.reachable(key, promotion.release):
                    raise Refused("no_replica", "no prepared replica is reachable any more", fix="promote again")
                # From here on R must not cancel it, and the entry that goes out names no candidate any more.
                self.prepares.end(key, promotion.id)
                setting = self.check.residency(key, promotion.request, promotion.actor)
                promotion.committed = await log_.commit([draft, *setting], promotion.request.idempotency_key)
                promotion.commit_at = self.clock.monotonic()
            result = {"rev": promotion.committed.rev}
            self._close(promotion, JobState.DONE, step=len(promotion.nodes), message="", result=result)
        except (Refused, StoreError) as error:
            promotion.error = error
            cancelled = isinstance(error, Refused) and error.code == "prepare_cancelled"
            state = JobState.CANCELLED if cancelled else JobState.FAILED
            detail = f"{error.title} {error.detail}".strip() if isinstance(error, Refused) else str(error)
            self._close(promotion, state, code=error.code, message=detail)
        except asyncio.CancelledError:
            promotion.error = Refused("hub_stopping", "the hub is stopping; nothing was moved", fix="promote again")
            raise
        except Exception as error:
            promotion.error = error
            self._close(promotion, JobState.FAILED, code="internal", message=type(error).__name__)
            raise
        finally:
            self.prepares.end(key, promotion.id)
            promotion.over.set()
            self.table_sender.refresh([key])
            self.changes.now((key,))

    def _close(self, promotion: Promotion, state: JobState, **update: Any) -> None:
        job = self.jobs.get(promotion.id)
        if job is not None:
            ended = self.jobs.end(job, state, **update)
            if unanswered([ended]):
                self.failed[promotion.key] = ended
        if state is not JobState.DONE:
            for name in promotion.sent:
                node = self.fleet.nodes.get(name)
                if node is not None and node.link is not None and not promotion.nodes.get(name):
                    node.link.put_message(JobCancel(job=promotion.id, lease=1))
        del self._by_id[promotion.id]
        over = [k for k, p in self._by_key.items() if p.over.is_set()]
        for key in over[: max(0, len(over) - KEPT)]:
            del self._by_key[key]

    def cancel(self, prepare: str, by: str) -> None:
        """Cancels a pending prepare. Does nothing when it has committed or ended meanwhile."""
        promotion = self._by_id.get(prepare)
        if promotion is None or self.prepares.pending(promotion.key) != prepare:
            return
        self._fail(
            promotion,
            Refused("prepare_cancelled", f"the prepare was cancelled by {by}", detail=prepare, fix="nothing was moved"),
        )
        # Nobody waits for the nodes: from now on the pointer has no prepare.
        self.prepares.end(promotion.key, prepare)
        self.table_sender.refresh([promotion.key])

    def stop(self) -> None:
        """Fails all pending promotes: the hub is stopping."""
        for promotion in self._pending():
            why = Refused("hub_stopping", "the hub is stopping", detail="nothing was moved", fix="promote again")
            self._fail(promotion, why)

    def _pending(self) -> Iterator[Promotion]:
        return (self._by_id[prepare] for prepare in self.prepares.ids())

    def _fail(self, promotion: Promotion, why: Refused) -> None:
        promotion.failure = promotion.failure or why
        promotion.changed.set()

    def event(self, node: Node, message: JobEvent) -> None:
        """Handles a node's event of its part of a prepare."""
        promotion = self._by_id.get(message.job)
        if promotion is None or message.lease != 1 or node.name not in promotion.nodes:
            return
        match message.event.type:
            case ExecutorEventType.FINISHED:
                promotion.nodes[node.name] = True
                promotion.changed.set()
                self._progress(promotion)
            case ExecutorEventType.FAILED | ExecutorEventType.PREEMPTED:
                event, fix = message.event, f"nothing was moved; see: loradeck job show {promotion.id}"
                if event.code == "no_slot":
                    state, key = self.log.state, promotion.key
                    fix = f"nothing was moved; {forward.share_slots(state.pointer(key), state.config(key))}"
                self._fail(
                    promotion,
                    Refused(
                        "prepare_failed",
                        f"the prepare failed on {node.name}",
                        detail=f"{event.code or event.type.value}: {event.message}",
                        fix=fix,
                        context={"node": node.name, "code": event.code, "prepare": promotion.id},
                    ),
                )
            case _:
                pass

    def _progress(self, promotion: Promotion) -> None:
        job = self.jobs.get(promotion.id)
        if job is not None:
            ready = sum(promotion.nodes.values())
            update = {"step": ready, "of": len(promotion.nodes), "message": _loading(promotion)}
            self.jobs.put(job.model_copy(update=update), durable=False)

    def joined(self, node: Node) -> None:
        """Sends a node that has linked what is being prepared on it; a new node takes part."""
        for promotion in self._by_id.values():
            promotion.sent.discard(node.name)
        self.nodes_changed()

    def nodes_changed(self, _: object = None) -> None:
        """Goes on without nodes that are unreachable now, and prepares on those that became reachable.

        A follower of the nodes. Jobs of a lost node have until its link would be given up.
        """
        for promotion in self._pending():
            reachable = self.capacity.reachable(promotion.key, promotion.release)
            for name in reachable:
                promotion.nodes.setdefault(name, False)
            for name in set(promotion.nodes) - set(reachable):
                del promotion.nodes[name]
            if not promotion.nodes:
                why = "no placed replica is reachable any more"
                self._fail(promotion, Refused("no_replica", why, detail=promotion.id, fix="promote again later"))
            self._send(promotion)
            self._progress(promotion)
            promotion.changed.set()


def _loading(promotion: Promotion) -> str:
    """The nodes that a promote waits for, in words; nothing once all are ready."""
    waits = sorted(name for name, ready in promotion.nodes.items() if not ready)
    more = f" and {len(waits) - LOADING_NAMED} more" if len(waits) > LOADING_NAMED else ""
    return f"loading on {', '.join(waits[:LOADING_NAMED])}{more}" if waits else ""
