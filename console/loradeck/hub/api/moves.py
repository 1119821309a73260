"""Moves of one pointer: promote, rollback, undo, fallback; and events that move none: hold, lift, unpin, annotate."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from loradeck.hub.access.auth import Caller, provider_silent
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import (
    AT_ONCE,
    PAGE,
    Backward,
    Operator,
    OperatorOfEach,
    Releaser,
    ThisHub,
    ViewerOfEach,
    Wait,
    Waiting,
)
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import records, rollbacks
from loradeck.rules.moves.draft import Actor, expect_generation
from loradeck.rules.moves.rollbacks import Already, Cancel, rebase
from loradeck.rules.quality import break_glass
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.counts import NO_COUNTS
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import (
    AnnotateRequest,
    CountersignRequest,
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.store.interface import Committed, Moved

router = APIRouter(prefix="/v1", tags=["moves"], route_class=Guarded)

Decided = Draft | Sequence[Draft] | Cancel | Already
Decide = Callable[[], Decided | Awaitable[Decided]]


def actor_of(caller: Caller, ticket: str | None = None) -> Actor:
    """The caller as an actor of the log, who moves under a change ticket."""
    return Actor(name=caller.actor, role=caller.role, token=caller.token, local=caller.local, ticket=ticket)


def nothing_moved(hub: Hub, **update: Any) -> MoveResult:
    """The result of a request that has added no events."""
    return MoveResult(events=(), rev=hub.log.state.rev, epoch=hub.log.state.epoch, **update)


def answer(result: MoveResult) -> Response:
    """The HTTP response with the result of a move."""
    return Response(result.model_dump_json(), media_type="application/json")


# ---- how a move is made ----------------------------------------------------------------------------------


async def move(
    hub: Hub, caller: Caller, key: str, decide: Decide, wait: Waiting = AT_ONCE, at: PointerKey | None = None
) -> MoveResult:
    """Decides on the folded log, commits, and waits for the level that the caller wants to see.

    Nothing is decided on the pointer `at` where the log is known to lack moves of it. A key that has committed before
    is answered with what it committed, whatever the rules decide now, if the caller may make the move at its tenants.

    Raises: Refused, StoreError: nothing was changed, except with `outcome_unknown`.
    """
    began = hub.clock.monotonic()
    await hub.startup.wait()
    try:
        async with hub.log.moving:
            hub.moves_allowed.check_pointer(at)
            decided = decide()
            drafts = await decided if inspect.isawaitable(decided) else decided
            if isinstance(drafts, Cancel):
                return nothing_moved(hub, cancelled=drafts.prepare)
            if isinstance(drafts, Already):
                return nothing_moved(hub, already=drafts.event)
            drafts = [drafts] if isinstance(drafts, Draft) else drafts
            hub.moves_allowed.check_all(drafts)
            committed = await hub.log.commit(drafts, key)
    except (Refused, Moved) as refused:
        replayed = await hub.store(lambda s: s.lookup(key))
        if replayed is None:
            raise await _with_winner(hub, refused) from None
        committed = replayed
    if committed.replayed:
        caller.at(*(event.tenant for event in committed.events))
    commit_ms = None if committed.replayed else (hub.clock.monotonic() - began) * 1000
    return await outcome(hub, committed, wait, commit_ms=commit_ms)


async def moved(
    hub: Hub, caller: Caller, key: str, decide: Decide, wait: Waiting = AT_ONCE, at: PointerKey | None = None
) -> Response:
    """Makes a move, and answers with its result."""
    return answer(await move(hub, caller, key, decide, wait, at))


async def _with_winner(hub: Hub, refused: Refused | Moved) -> Refused | Moved:
    """Adds the move that was faster to a `moved`."""
    last = refused.context.get("last_move") if isinstance(refused, Refused) and refused.code == "moved" else None
    if isinstance(refused, Refused) and last:
        event = await hub.log.event(last)
        refused.context["winner"] = event.model_dump(mode="json") if event else None
    return refused


async def outcome(
    hub: Hub, committed: Committed, wait: Waiting = AT_ONCE, *, commit_ms: float | None = None
) -> MoveResult:
    """The result of committed events, after a wait for their pointers to flip or to be proven."""
    fences = {e.pointer.key: (e.epoch, e.pointer.generation) for e in committed.events if e.kind in MOVES and e.pointer}
    if fences:
        await hub.progress.wait(wait.level, fences, wait.timeout)
    reached, flipped_ms, proven_ms = hub.progress.reached(fences.items()) if fences else (Reached.COMMITTED, None, None)
    return MoveResult(
        events=tuple(committed.events),
        rev=committed.rev,
        epoch=hub.log.state.epoch,
        replayed=committed.replayed,
        reached=reached,
        copies=1 if hub.log.one_copy or any(event.one_copy for event in committed.events) else None,
        commit_ms=commit_ms,
        flipped_ms=flipped_ms,
        proven_ms=proven_ms,
    )


# ---- back ------------------------------------------------------------------------------------------------


@router.post(PAGE + "/rollback", response_model=MoveResult)
async def rollback(
    tenant: str, route: str, body: RollbackRequest, hub: ThisHub, caller: Backward, wait: Wait
) -> Response:
    """Moves the pointer back, where R goes. While a promote is being prepared R cancels it, and nothing moves.

    A press that was decided before moves of the hub's own stands where R still goes to the same release.
    """
    key = (tenant, route)

    async def decide() -> Decided:
        _, _, pointer = hub.log.state.route(tenant, route)
        target, request = hub.targets.of(pointer), body
        if body.expected_generation < pointer.generation:
            since = await hub.log.after_generation(key, body.expected_generation)
            rebased = rebase(body, pointer, target, since)
            if isinstance(rebased, Already):
                return rebased
            request = rebased
        drafted = rollbacks.rollback(pointer, request, target, actor_of(caller, body.ticket), name=hub.catalogue.called)
        if isinstance(drafted, Cancel):
            hub.promotions.cancel(drafted.prepare, caller.actor)
            return drafted
        return drafted

    if body.cancels is not None and hub.promotions.was_cancelled(key, body.cancels):
        # Sent again after its answer was lost: it is cancelled, and nothing more is to be done.
        return answer(nothing_moved(hub, replayed=True, cancelled=body.cancels))
    return await moved(hub, caller, body.idempotency_key, decide, wait, at=key)


@router.post(PAGE + "/fallback", response_model=MoveResult)
async def fallback(
    tenant: str, route: str, body: FallbackRequest, hub: ThisHub, caller: Backward, wait: Wait
) -> Response:
    """Moves the pointer to the base of the current release, alone (F)."""

    async def decide() -> Sequence[Draft]:
        _, config, now = hub.log.state.route(tenant, route)
        expect_generation(now, body.expected_generation)
        base = hub.targets.base_alone(tenant, now.release) or ""
        drafts = [rollbacks.fallback(now, body, actor_of(caller, body.ticket), base, allowed=config.fallback)]
        hub.moves_allowed.check_all(drafts)  # a move that is refused registers nothing
        if base:
            await hub.registry.use(tenant, base, caller.actor)
        return drafts

    return await moved(hub, caller, body.idempotency_key, decide, wait, at=(tenant, route))


@router.post(PAGE + "/undo", response_model=MoveResult)
async def undo_event(
    tenant: str, route: str, body: UndoRequest, hub: ThisHub, caller: Operator, wait: Wait
) -> Response:
    """Undoes one event of this route."""
    hub.log.state.route(tenant, route)
    return await _undo(hub, body, caller, wait, only=(tenant, route))


@router.post("/undo", response_model=MoveResult)
async def undo_txn(body: UndoRequest, hub: ThisHub, caller: OperatorOfEach, wait: Wait) -> Response:
    """Undoes every event of a txn, several events of different pointers, or one event."""
    return await _undo(hub, body, caller, wait)


async def _undo(hub: Hub, body: UndoRequest, caller: Caller, wait: Waiting, only: PointerKey | None = None) -> Response:
    undone: list[Event] = []
    before: Mapping[PointerKey, PointerState] = {}
    if body.event is not None and body.txn is None:
        event = await hub.log.event(body.event)
        undone = [event] if event else []
    elif body.txn is not None and body.event is None:
        txn = body.txn
        undone = [event for event in await hub.store(lambda s: s.txn(txn)) if event.kind is not EventKind.CAMPAIGN]
    elif body.events:
        found = [await hub.log.event(id_) for id_ in body.events]
        undone = [event for event in found if event is not None]
    if not all(caller.sees(event.tenant) for event in undone):
        undone = []
    caller = caller.at(*(event.tenant for event in undone))
    if only is not None and any((e.tenant, e.route) != only for e in undone):
        raise Refused("unknown_event", "that event is of another route", detail=f"not of {only[0]}/{only[1]}")
    if body.txn is None or len(undone) == 1:
        states = [await hub.log.pointer_before(event) for event in undone if event.pointer is not None]
        before = {state.key: state for state in states if state is not None}
    elif undone:
        first = undone[0].rev
        before = {p.key: p for p in await hub.store(lambda s: s.pointers_at(first - 1))}

    def decide() -> Sequence[Draft]:
        return rollbacks.undo(
            hub.log.state.pointers,
            undone,
            before,
            body,
            actor_of(caller, body.ticket),
            facts=hub.facts.of,
            revoked=hub.facts.revoked,
            name=hub.catalogue.called,
        )

    return await moved(hub, caller, body.idempotency_key, decide, wait, at=only)


# ---- forward ---------------------------------------------------------------------------------------------


@router.post(PAGE + "/promote", response_model=MoveResult)
async def promote(
    tenant: str, route: str, body: PromoteRequest, hub: ThisHub, caller: Releaser, wait: Wait
) -> Response:
    """Prepares, commits, flips. Where the wait ends first, the answer names the prepare, which goes on."""
    return await prepared(hub, (tenant, route), body, caller, wait)


async def prepared(hub: Hub, key: PointerKey, body: PromoteRequest, caller: Caller, wait: Waiting) -> Response:
    """Prepares a promote or a candidate's start, and answers once it is committed and as far as the wait asks."""
    tenant, route = key
    began = hub.clock.monotonic()
    hub.log.state.route(tenant, route)
    await hub.startup.wait()
    try:
        promotion = await hub.promotions.begin((tenant, route), body, actor_of(caller, body.ticket))
    except (Refused, Moved) as refused:
        replayed = await hub.store(lambda s: s.lookup(body.idempotency_key))
        if replayed is None:
            raise await _with_winner(hub, refused) from None
        caller.at(*(event.tenant for event in replayed.events))
        return answer(await outcome(hub, replayed, wait))
    if not await promotion.wait(wait.timeout):
        return answer(nothing_moved(hub, pending=promotion.id))
    try:
        committed = promotion.result()
    except (Refused, Moved) as refused:
        raise await _with_winner(hub, refused) from None
    commit_ms = ((promotion.commit_at or began) - began) * 1000
    rest = Waiting(wait.level, max(0.0, wait.timeout - (hub.clock.monotonic() - began)))
    return answer(await outcome(hub, committed, rest, commit_ms=commit_ms if commit_ms >= 0 else None))


# ---- what moves nothing ----------------------------------------------------------------------------------


@router.post(PAGE + "/hold", response_model=MoveResult)
async def hold(tenant: str, route: str, body: HoldRequest, hub: ThisHub, caller: Backward) -> Response:
    """Holds the pointer, or clears its hold: held, nothing is promoted."""
    if caller.backward and not body.held:
        raise provider_silent(caller)

    async def decide() -> Draft:
        pointer = hub.log.state.route(tenant, route)[2]
        return records.hold(pointer, body, actor_of(caller), await hub.log.held_by(pointer))

    return await moved(hub, caller, body.idempotency_key, decide, at=(tenant, route))


@router.post(PAGE + "/lift", response_model=MoveResult)
async def lift(tenant: str, route: str, body: LiftRequest, hub: ThisHub, caller: Releaser) -> Response:
    """Ends the quarantine and the breach of a release on this pointer."""

    def draft() -> Draft:
        pointer = hub.log.state.route(tenant, route)[2]
        return records.lift(
            pointer,
            body,
            actor_of(caller),
            hub.facts.of(pointer.key),
            live=hub.health.counted(pointer) if pointer.release is not None else NO_COUNTS,
            total=hub.health.counted_total(pointer.key, body.release),
            name=hub.catalogue.called,
        )

    return await moved(hub, caller, body.idempotency_key, draft, at=(tenant, route))


@router.post(PAGE + "/unpin", response_model=MoveResult)
async def unpin(tenant: str, route: str, body: UnpinRequest, hub: ThisHub, caller: Operator) -> Response:
    """Ends a pin that somebody set on a node. It is sent to the node as soon as that is linked."""
    node = hub.fleet.known(body.node)

    def draft() -> Draft:
        pointer = hub.log.state.route(tenant, route)[2]
        return records.unpin(pointer, body, actor_of(caller), until_ms=hub.pins.known(node, pointer.key).at_ms)

    return await moved(hub, caller, body.idempotency_key, draft)


@router.post(PAGE + "/annotate", response_model=MoveResult)
async def annotate(tenant: str, route: str, body: AnnotateRequest, hub: ThisHub, caller: Operator) -> Response:
    """Adds an incident and a reason to an event of the past."""
    hub.log.state.route(tenant, route)
    event = await hub.log.event(body.event)
    if event is None or (event.tenant, event.route) != (tenant, route):
        raise Refused("unknown_event", f"{tenant}/{route} has no such event", detail=body.event)
    draft = partial(records.annotate, event, body, actor_of(caller))
    return await moved(hub, caller, body.idempotency_key, draft)


@router.post(PAGE + "/countersign", response_model=MoveResult)
async def countersign(tenant: str, route: str, body: CountersignRequest, hub: ThisHub, caller: Releaser) -> Response:
    """Says that the caller has seen what somebody else did alone on the hub's host, where the route asks for two."""
    hub.log.state.route(tenant, route)
    event = hub.broken_glass.find(body.event)
    if event is None or (event.tenant, event.route) != (tenant, route):
        fix = "loradeck route show names what waits for it"
        raise Refused("unknown_event", f"nothing of {tenant}/{route} waits for this", detail=body.event, fix=fix)
    if not caller.local:
        hub.proposals.person(caller.actor, caller.token)
    draft = partial(break_glass.countersign, event, body, actor_of(caller))
    return await moved(hub, caller, body.idempotency_key, draft)


@router.get("/moves/{key}", response_model=MoveResult)
async def by_key(key: str, hub: ThisHub, caller: ViewerOfEach) -> Response:
    """The result of the move that was sent under an idempotency key; 404: that key never moved anything.

    A hub that may lack a part of the log (`log_behind`, `not_active`) answers with that instead of a 404.
    """
    promotion = hub.promotions.of_key(key)
    if promotion is not None and caller.sees(promotion.key[0]) and not promotion.over.is_set():
        return answer(nothing_moved(hub, pending=promotion.id))
    committed = await hub.store(lambda s: s.lookup(key))
    if committed is None or not all(caller.sees(event.tenant) for event in committed.events):
        hub.moves_allowed.check_complete()
        raise Refused("unknown_key", "this key never moved anything", detail=key, fix="it is safe to send it again")
    return answer(await outcome(hub, committed))
