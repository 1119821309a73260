"""Promote: prepare on every reachable placed replica, check again, commit, flip.

A prepare moves nothing. While it is pending, R cancels it, and a hub that restarts has simply forgotten it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loradeck.hub.data import datasets
from loradeck.hub.jobs import gates
from loradeck.rules.errors import Refused
from loradeck.rules.moves import forward
from loradeck.rules.moves.draft import Actor
from loradeck.rules.quality.signatures import check_signed
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import ExecutorEventType, Job, JobAssignment, JobState, PrepareSpec
from loradeck.schemas.link import EngineState, JobCancel, JobEvent, JobMessage
from loradeck.schemas.log import PointerState
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.release import Form, Release
from loradeck.schemas.table import ReleaseRef
from loradeck.store.interface import Committed, StoreError

if TYPE_CHECKING:
    from loradeck.hub.fleet.link import Link
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.jobs.promotion")


KEPT = 200
"""Promotions that are over and still answer for their idempotency keys."""


@dataclass(eq=False)
class Promotion:
    """One promote on its way. `nodes`: name -> None while it prepares, True once ready there."""

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
        """Whether it has ended within so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.over.wait()
        except TimeoutError:
            return False
        return True

    def result(self) -> Committed:
        """Raises: what ended it, when that was no commit."""
        if self.error is not None:
            raise self.error
        assert self.committed is not None
        return self.committed


class Promotions:
    """All promotes that have not committed yet, at most one a pointer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._by_pointer: dict[PointerKey, Promotion] = {}
        self._by_id: dict[str, Promotion] = {}
        self._by_key: dict[str, Promotion] = {}

    def pending(self, key: PointerKey) -> str | None:
        """Id of the prepare that R would cancel."""
        promotion = self._by_pointer.get(key)
        return promotion.id if promotion else None

    def preparing(self, key: PointerKey) -> str | None:
        """Release that the nodes are to make resident beside the current one."""
        promotion = self._by_pointer.get(key)
        return promotion.release.id if promotion else None

    def of_key(self, idempotency_key: str) -> Promotion | None:
        return self._by_key.get(idempotency_key)

    def was_cancelled(self, key: PointerKey, prepare: str) -> bool:
        """Whether a prepare of this pointer ended by being cancelled."""
        job = self._hub.queue.get(prepare)
        spec = job.spec if job else None
        if job is None or not isinstance(spec, PrepareSpec) or (spec.tenant, spec.route) != key:
            return False
        promotion = self._by_id.get(prepare)
        cancelling = promotion is not None and promotion.failure is not None
        return job.state is JobState.CANCELLED or (cancelling and self.pending(key) != prepare)

    # ---- beginning -----------------------------------------------------------------------------------------

    async def begin(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> Promotion:
        """Start a promote, or find the one that this idempotency key has started.

        Raises: Refused: the rules forbid it, or another one is being prepared; nothing was changed.
        """
        known = self._by_key.get(request.idempotency_key)
        if known is not None:
            return known
        hub = self._hub
        hub.check_moves()
        await self.check(key, request, actor)
        await hub.use(key[0], request.release, actor.name)
        release = hub.catalogue.releases[request.release]
        nodes = self._reachable(key, release)
        if not nodes:
            raise Refused(
                "no_replica",
                f"no placed replica of the base of {hub.called(release.id)} is reachable",
                detail=f"{key[0]}/{key[1]}",
                fix="bring a node of this placement back; there is nothing to prepare it on",
            )
        known = self._by_key.get(request.idempotency_key)
        if known is not None:  # the same request came twice, and the other one was faster
            return known
        if key in self._by_pointer:
            raise Refused(
                "prepare_pending",
                "another promote is being prepared on this pointer",
                detail=self._by_pointer[key].id,
                fix="wait for it, or cancel it with R",
                context={"prepare": self._by_pointer[key].id},
            )
        promotion = Promotion(f"p{secrets.token_hex(8)}", key, request, actor, release, dict.fromkeys(nodes, False))
        self._by_pointer[key] = self._by_id[promotion.id] = self._by_key[request.idempotency_key] = promotion
        self._hub.queue.put(self._job(promotion))
        hub.refresh([key])
        self._send(promotion)
        hub.feeds.now((key,))
        hub.spawn(self._run(promotion))
        return promotion

    async def check(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> tuple[str, ...]:
        """What forbids the promote now; the codes its override passes.

        Raises: Refused.
        """
        hub = self._hub
        tenant, config, pointer = hub.route(*key)
        datasets.check_descent(hub, release=request.release)
        release = hub.catalogue.release(request.release, key[0])
        if release is not None:
            signed_by = hub.facts.signed.get(release.merged or release.adapter or "", ())
            old = hub.facts.deprecated.get(release.adapter or "")
            if old is not None and hub.now_ms() >= old.from_ms:
                raise Refused(
                    "deprecated",
                    f"{hub.called(release.id)} is deprecated, and is not promoted any more",
                    detail=old.reason,
                    fix="promote another one, or deprecate it from a later day on",
                    context={"from_ms": old.from_ms},
                )
            check_signed(release, config.signers, signed_by, hub.called(release.id))
        result = await gates.judge(hub, key, request.release) if config.gate and release else None
        pointer = hub.ledger.pointers.get(key) or pointer
        placed = hub.fleet.placed(config.placement, release.served_base) if release else ()
        return forward.check_promote(
            pointer,
            request,
            hub.facts.of(key),
            config,
            actor=actor,
            release=release,
            gate_results=[result] if result else [],
            tenant=tenant,
            now_ms=hub.now_ms(),
            slots_ok=release is None or self._slots_ok(key, release),
            base_placed=bool(placed),
            memory_short=self._memory_short(key, release) if release else "",
            left_behind=self._left_behind(key, release) if release else (),
            name=hub.called,
        )

    def _left_behind(self, key: PointerKey, candidate: Release) -> list[str]:
        """Nodes that serve the pointer now and have no engine of the candidate's base."""
        placed = self._hub.fleet.placed(self._hub.config(key).placement, candidate.served_base)
        serving = {node.name for node, _ in self._hub.observer.placed(key) if not node.lost}
        return sorted(serving - {node.name for node, _ in placed})

    def _memory_short(self, key: PointerKey, candidate: Release) -> str:
        """Where memory does not hold the candidate's engine beside those of all that is live there; '': nowhere."""
        hub, short_of = self._hub, []
        for node, replica in hub.fleet.placed(hub.config(key).placement, candidate.served_base):
            if node.memory_gb is None or node.lost:
                continue
            table = hub.steer.table(node.labels)
            currents = (hub.steer.entries[k].current for k in table.keys if k not in table.withdrawn)
            bases = {ref.release.served_base for ref in currents if ref is not None}
            others = [r for r in node.replicas if r is not replica and (r.always or r.base in bases)]
            needed = (replica.memory_gb or 0) + sum(r.memory_gb or 0 for r in others)
            if needed > node.memory_gb:
                short_of.append(f"{node.name}: {needed:g} of {node.memory_gb:g} GB")
        return ", ".join(short_of[:8])

    def _slots_ok(self, key: PointerKey, candidate: Release) -> bool:
        """Whether every placed replica has room for all currents of its table and the candidate."""
        if candidate.form is not Form.ADAPTER:
            return True
        hub = self._hub
        counted: dict[int, int] = {}
        for node, replica in hub.fleet.placed(hub.config(key).placement, candidate.served_base):
            if node.lost or not replica.slots:
                continue
            table = hub.steer.table(node.labels)
            needed = counted.get(id(table))
            if needed is None:
                currents = (hub.steer.entries[k].current for k in table.keys if k not in table.withdrawn)
                held = {
                    ref.id
                    for ref in currents
                    if ref is not None
                    and ref.release.form is Form.ADAPTER
                    and ref.release.served_base == candidate.served_base
                }
                needed = counted[id(table)] = len(held | {candidate.id})
            if needed > replica.slots:
                return False
        return True

    def _reachable(self, key: PointerKey, release: Release) -> list[str]:
        placed = self._hub.fleet.placed(self._hub.config(key).placement, release.served_base)
        return sorted(
            {node.name for node, replica in placed if not node.lost and replica.state is not EngineState.DOWN}
        )

    def _job(self, promotion: Promotion) -> Job:
        request = promotion.request
        tenant, route = promotion.key
        spec = PrepareSpec(
            tenant=tenant, route=route, release=request.release, expected_generation=request.expected_generation
        )
        now = self._hub.now_ms()
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
        )

    def _send(self, promotion: Promotion, only: Node | None = None) -> None:
        """Give the prepare to the linked nodes that do not have it yet."""
        job = self._hub.queue.get(promotion.id)
        assert job is not None
        config = self._hub.config(promotion.key)
        release = promotion.release
        message = JobMessage(
            job=JobAssignment(
                id=job.id,
                lease=job.lease,
                attempt=job.attempt,
                spec=job.spec,
                release=ReleaseRef(id=release.id, release=release, label=release.label),
                canaries=config.canaries,
                swap=bool(self._memory_short(promotion.key, release)),
            )
        )
        for name, ready in promotion.nodes.items():
            node = self._hub.fleet.nodes.get(name)
            if ready or node is None or node.link is None or name in promotion.sent:
                continue
            if only is None or only is node:
                promotion.sent.add(name)
                node.link.put_message(message)

    # ---- on its way ----------------------------------------------------------------------------------------

    async def _run(self, promotion: Promotion) -> None:
        hub = self._hub
        try:
            while not all(promotion.nodes.values()):
                promotion.changed.clear()
                await promotion.changed.wait()
                if promotion.failure is not None:
                    raise promotion.failure
            async with hub.moving:
                if promotion.failure is not None:
                    raise promotion.failure
                hub.check_moves()
                overridden = await self.check(promotion.key, promotion.request, promotion.actor)
                if not self._reachable(promotion.key, promotion.release):
                    raise Refused("no_replica", "no prepared replica is reachable any more", fix="promote again")
                pointer = hub.ledger.pointers.get(promotion.key) or PointerState(
                    tenant=promotion.key[0], route=promotion.key[1]
                )
                attested = pointer.release is not None and hub.facts.is_attested(promotion.key, pointer.release)
                draft = forward.promote(
                    pointer, promotion.request, promotion.actor, live_attested=attested, overridden=overridden
                )
                # From here on R must not cancel it, and the entry that goes out names no candidate any more.
                self._by_pointer.pop(promotion.key, None)
                promotion.committed = await hub.commit([draft], promotion.request.idempotency_key)
                promotion.commit_at = hub.clock()
            self._close(promotion, JobState.DONE, step=len(promotion.nodes), result={"rev": promotion.committed.rev})
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
            if self._by_pointer.get(promotion.key) is promotion:
                del self._by_pointer[promotion.key]
            promotion.over.set()
            hub.refresh([promotion.key])
            hub.feeds.now((promotion.key,))

    def _close(self, promotion: Promotion, state: JobState, **update: Any) -> None:
        job = self._hub.queue.get(promotion.id)
        if job is not None:
            update |= {"state": state, "ended_ms": self._hub.now_ms()}
            self._hub.queue.put(job.model_copy(update=update))
        if state is not JobState.DONE:
            for name in promotion.sent:
                node = self._hub.fleet.nodes.get(name)
                if node is not None and node.link is not None and not promotion.nodes.get(name):
                    node.link.put_message(JobCancel(job=promotion.id, lease=1))
        del self._by_id[promotion.id]
        over = [k for k, p in self._by_key.items() if p.over.is_set()]
        for key in over[: max(0, len(over) - KEPT)]:
            del self._by_key[key]

    def cancel(self, prepare: str, by: str) -> None:
        """Stop a pending prepare. Does nothing when it has committed or ended meanwhile."""
        promotion = self._by_id.get(prepare)
        if promotion is None or self._by_pointer.get(promotion.key) is not promotion:
            return
        self._fail(
            promotion,
            Refused("prepare_cancelled", f"the prepare was cancelled by {by}", detail=prepare, fix="nothing was moved"),
        )
        # Nobody waits for the nodes: from now on the pointer has no prepare.
        del self._by_pointer[promotion.key]
        self._hub.refresh([promotion.key])

    def stop(self) -> None:
        """The hub is stopping: whoever waits for a promote is told that it came to nothing."""
        for promotion in list(self._by_pointer.values()):
            why = Refused("hub_stopping", "the hub is stopping", detail="nothing was moved", fix="promote again")
            self._fail(promotion, why)

    def _fail(self, promotion: Promotion, why: Refused) -> None:
        promotion.failure = promotion.failure or why
        promotion.changed.set()

    def event(self, node: Node, message: JobEvent) -> None:
        """What a node says of its part of a prepare."""
        promotion = self._by_id.get(message.job)
        if promotion is None or message.lease != 1 or node.name not in promotion.nodes:
            return
        match message.event.type:
            case ExecutorEventType.FINISHED:
                promotion.nodes[node.name] = True
                promotion.changed.set()
                self._progress(promotion)
            case ExecutorEventType.FAILED | ExecutorEventType.PREEMPTED:
                event = message.event
                self._fail(
                    promotion,
                    Refused(
                        "prepare_failed",
                        f"the prepare failed on {node.name}",
                        detail=f"{event.code or event.type.value}: {event.message}",
                        fix=f"nothing was moved; see: loradeck job show {promotion.id}",
                        context={"node": node.name, "code": event.code, "prepare": promotion.id},
                    ),
                )
            case _:
                pass

    def _progress(self, promotion: Promotion) -> None:
        job = self._hub.queue.get(promotion.id)
        if job is not None:
            ready = sum(promotion.nodes.values())
            self._hub.queue.put(job.model_copy(update={"step": ready, "of": len(promotion.nodes)}), durable=False)

    def hello(self, link: Link) -> None:
        """A node has linked again: it gets what is being prepared on it, and new nodes take part."""
        node = link.node
        assert node is not None
        for promotion in self._by_id.values():
            promotion.sent.discard(node.name)
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Nodes came or were lost: who is unreachable is not waited for, who is reachable takes part."""
        for promotion in list(self._by_pointer.values()):
            reachable = self._reachable(promotion.key, promotion.release)
            for name in reachable:
                promotion.nodes.setdefault(name, False)
            for name in set(promotion.nodes) - set(reachable):
                del promotion.nodes[name]
            if not promotion.nodes:
                why = "no placed replica is reachable any more"
                self._fail(promotion, Refused("no_replica", why, detail=promotion.id, fix="promote again later"))
            self._send(promotion)
            promotion.changed.set()
