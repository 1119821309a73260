"""Moves of one pointer: promote, rollback, undo, fallback; and what is said of it: hold, lift, unpin, annotate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from loradeck.hub.access.auth import Caller, allow
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import backward, draft, holds, pins_and_notes
from loradeck.rules.moves.backward import Cancel
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.counts import NO_COUNTS
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import MOVES, Draft, Event, PointerState
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.release import Release
from loradeck.store.interface import Committed, Moved, Store

router = APIRouter(prefix="/v1", tags=["moves"])

Wait = Literal["committed", "flipped", "proven"]
Timeout = Annotated[float, Query(ge=0, le=600, description="seconds the answer may wait")]
Decide = Callable[[], Sequence[Draft] | Cancel]

Operator = Annotated[Caller, Depends(allow(Role.OPERATOR))]
Releaser = Annotated[Caller, Depends(allow(Role.RELEASER))]
Viewer = Annotated[Caller, Depends(allow(Role.VIEWER))]

PAGE = "/tenants/{tenant}/routes/{route}"


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def actor_of(caller: Caller) -> Actor:
    return Actor(name=caller.actor, role=caller.role)


def answer(result: MoveResult) -> Response:
    return Response(result.model_dump_json(), media_type="application/json")


# ---- how a move is made ----------------------------------------------------------------------------------


async def move(hub: Hub, key: str, decide: Decide, *, wait: str = "committed", timeout: float = 0) -> MoveResult:
    """Decide on the folded log, commit, and wait for what the caller wants to see.

    A key that has moved before is answered with what it moved, whatever the rules say of it now.

    Raises: Refused, StoreError: nothing was changed, except with `outcome_unknown`.
    """
    began = hub.clock()
    await hub.settling.wait()
    try:
        async with hub.moving:
            hub.check_moves()
            drafts = decide()
            if isinstance(drafts, Cancel):
                return MoveResult(events=(), rev=hub.ledger.rev, epoch=hub.ledger.epoch, cancelled=drafts.prepare)
            committed = await hub.commit(drafts, key)
    except (Refused, Moved) as refused:
        replayed = await hub.store(lambda s: s.lookup(key))
        if replayed is None:
            raise await _with_winner(hub, refused) from None
        committed = replayed
    commit_ms = None if committed.replayed else (hub.clock() - began) * 1000
    return await outcome(hub, committed, wait, timeout, commit_ms=commit_ms)


async def _with_winner(hub: Hub, refused: Refused | Moved) -> Refused | Moved:
    """A `moved` says who was faster."""
    last = refused.context.get("last_move") if isinstance(refused, Refused) and refused.code == "moved" else None
    if isinstance(refused, Refused) and last:
        event = next((e for e in reversed(hub.recent) if e.id == last), None)
        event = event or await hub.store(lambda s: s.event(last))
        refused.context["winner"] = event.model_dump(mode="json") if event else None
    return refused


async def outcome(
    hub: Hub, committed: Committed, wait: str, timeout: float, *, commit_ms: float | None = None
) -> MoveResult:
    """The result of committed events, after waiting for their pointers to flip or to be proven."""
    fences = {e.pointer.key: (e.epoch, e.pointer.generation) for e in committed.events if e.kind in MOVES and e.pointer}
    if fences:
        await hub.observer.wait(wait, fences, timeout)
    reached, flipped_ms, proven_ms = hub.observer.reached(fences.items()) if fences else ("committed", None, None)
    return MoveResult(
        events=tuple(committed.events),
        rev=committed.rev,
        epoch=hub.ledger.epoch,
        replayed=committed.replayed,
        reached=reached,
        commit_ms=commit_ms,
        flipped_ms=flipped_ms,
        proven_ms=proven_ms,
    )


# ---- back ------------------------------------------------------------------------------------------------


@router.post(PAGE + "/rollback", response_model=MoveResult)
async def rollback(
    tenant: str,
    route: str,
    body: RollbackRequest,
    request: Request,
    caller: Operator,
    wait: Wait = "committed",
    timeout: Timeout = 60,
) -> Response:
    """R. While a promote is being prepared it cancels that, and nothing moves."""
    hub, key = hub_of(request), (tenant, route)

    def decide() -> Sequence[Draft] | Cancel:
        _, _, pointer = hub.route(tenant, route)
        drafted = backward.rollback(pointer, body, hub.rows.target(key, pointer), actor_of(caller), name=hub.called)
        if isinstance(drafted, Cancel):
            hub.promotions.cancel(drafted.prepare, caller.actor)
            return drafted
        return [drafted]

    if body.cancels is not None and hub.promotions.was_cancelled(key, body.cancels):
        # Said again after its answer was lost: it is cancelled, and nothing more is to be done.
        return answer(
            MoveResult(events=(), rev=hub.ledger.rev, epoch=hub.ledger.epoch, replayed=True, cancelled=body.cancels)
        )
    return answer(await move(hub, body.idempotency_key, decide, wait=wait, timeout=timeout))


@router.post(PAGE + "/fallback", response_model=MoveResult)
async def fallback(
    tenant: str,
    route: str,
    body: FallbackRequest,
    request: Request,
    caller: Operator,
    wait: Wait = "committed",
    timeout: Timeout = 60,
) -> Response:
    """F: to the base of the current release, alone."""
    hub = hub_of(request)
    _, _, pointer = hub.route(tenant, route)
    live = hub.catalogue.releases.get(pointer.release) if pointer.release else None
    base: Release | None = hub.catalogue.base_alone(tenant, live.base) if live else None

    def decide() -> Sequence[Draft]:
        _, config, now = hub.route(tenant, route)
        draft.expect_generation(now, body.expected_generation)
        return [backward.fallback(now, body, actor_of(caller), base.id if base else "", allowed=config.fallback)]

    if base is not None and hub.refusing is None and _may(decide):
        await hub.use(tenant, base.id, caller.actor)
    return answer(await move(hub, body.idempotency_key, decide, wait=wait, timeout=timeout))


def _may(decide: Decide) -> bool:
    """Whether the rules allow a move now: one that they refuse must not register what it would have served."""
    try:
        decide()
    except Refused:
        return False
    return True


@router.post(PAGE + "/undo", response_model=MoveResult)
async def undo_event(
    tenant: str,
    route: str,
    body: UndoRequest,
    request: Request,
    caller: Operator,
    wait: Wait = "committed",
    timeout: Timeout = 60,
) -> Response:
    """Undo of one event of this route."""
    hub = hub_of(request)
    hub.route(tenant, route)
    return await _undo(hub, body, caller, wait, timeout, only=(tenant, route))


@router.post("/undo", response_model=MoveResult)
async def undo_txn(
    body: UndoRequest, request: Request, caller: Operator, wait: Wait = "committed", timeout: Timeout = 60
) -> Response:
    """Undo of every event of a txn, or of one event."""
    return await _undo(hub_of(request), body, caller, wait, timeout)


async def _undo(
    hub: Hub, body: UndoRequest, caller: Caller, wait: Wait, timeout: float, only: PointerKey | None = None
) -> Response:
    undone: list[Event] = []
    before: Mapping[PointerKey, PointerState] = {}
    if body.event is not None and body.txn is None:
        name = body.event
        event = next((e for e in reversed(hub.recent) if e.id == name), None)
        event = event or await hub.store(lambda s: s.event(name))
        undone = [event] if event else []
    elif body.txn is not None and body.event is None:
        txn = body.txn
        undone = await hub.store(lambda s: s.txn(txn))
    if only is not None and any((e.tenant, e.route) != only for e in undone):
        raise Refused("unknown_event", "that event is of another route", detail=f"not of {only[0]}/{only[1]}")
    if len(undone) == 1 and undone[0].pointer is not None:
        before = await _before(hub, undone[0])
    elif undone:
        first = undone[0].rev
        before = {p.key: p for p in await hub.store(lambda s: s.pointers_at(first - 1))}

    def decide() -> Sequence[Draft]:
        pointers, revoked = hub.ledger.pointers, hub.facts.revoked
        return backward.undo(pointers, undone, before, body, actor_of(caller), revoked=revoked, name=hub.called)

    return answer(await move(hub, body.idempotency_key, decide, wait=wait, timeout=timeout))


def _page(key: PointerKey, before_rev: int, store: Store) -> list[Event]:
    return store.history(tenant=key[0], route=key[1], before_rev=before_rev, limit=50)


async def _before(hub: Hub, event: Event) -> dict[PointerKey, PointerState]:
    """The pointer as it was before an event, from the log's events of its route."""
    assert event.pointer is not None
    key, before_rev = event.pointer.key, event.rev
    if hub.recent and hub.recent[0].rev < before_rev:
        for earlier in reversed(hub.recent):
            if earlier.rev < before_rev and earlier.pointer is not None and earlier.pointer.key == key:
                return {key: earlier.pointer}
    while True:
        page = await hub.store(partial(_page, key, before_rev))
        for earlier in page:
            if earlier.pointer is not None:
                return {key: earlier.pointer}
        if not page:
            return {}
        before_rev = page[-1].rev


# ---- forward ---------------------------------------------------------------------------------------------


@router.post(PAGE + "/promote", response_model=MoveResult)
async def promote(
    tenant: str,
    route: str,
    body: PromoteRequest,
    request: Request,
    caller: Releaser,
    wait: Wait = "committed",
    timeout: Timeout = 60,
) -> Response:
    """Prepare, commit, flip. Where the wait ends first, the answer names the prepare, which goes on."""
    hub, began = hub_of(request), hub_of(request).clock()
    hub.route(tenant, route)
    await hub.settling.wait()
    try:
        promotion = await hub.promotions.begin((tenant, route), body, actor_of(caller))
    except (Refused, Moved) as refused:
        replayed = await hub.store(lambda s: s.lookup(body.idempotency_key))
        if replayed is None:
            raise await _with_winner(hub, refused) from None
        return answer(await outcome(hub, replayed, wait, timeout))
    if not await promotion.wait(timeout):
        return answer(MoveResult(events=(), rev=hub.ledger.rev, epoch=hub.ledger.epoch, pending=promotion.id))
    try:
        committed = promotion.result()
    except (Refused, Moved) as refused:
        raise await _with_winner(hub, refused) from None
    commit_ms = ((promotion.commit_at or began) - began) * 1000
    left = max(0.0, timeout - (hub.clock() - began))
    return answer(await outcome(hub, committed, wait, left, commit_ms=commit_ms if commit_ms >= 0 else None))


# ---- what moves nothing ----------------------------------------------------------------------------------


async def _said(hub: Hub, key: str, draft: Callable[[], Draft]) -> Response:
    return answer(await move(hub, key, lambda: [draft()]))


@router.post(PAGE + "/hold", response_model=MoveResult)
async def hold(tenant: str, route: str, body: HoldRequest, request: Request, caller: Operator) -> Response:
    """Holds the pointer, or clears its hold: held, nothing is promoted."""
    hub = hub_of(request)
    return await _said(
        hub, body.idempotency_key, lambda: holds.hold(hub.route(tenant, route)[2], body, actor_of(caller))
    )


@router.post(PAGE + "/lift", response_model=MoveResult)
async def lift(tenant: str, route: str, body: LiftRequest, request: Request, caller: Releaser) -> Response:
    """Ends the quarantine and the breach of a release on this pointer."""
    hub = hub_of(request)

    def draft() -> Draft:
        pointer = hub.route(tenant, route)[2]
        return holds.lift(
            pointer,
            body,
            actor_of(caller),
            hub.facts.of(pointer.key),
            live=hub.observer.counted(pointer) if pointer.release is not None else NO_COUNTS,
            total=hub.observer.counted_total(pointer.key, body.release),
            name=hub.called,
        )

    return await _said(hub, body.idempotency_key, draft)


@router.post(PAGE + "/unpin", response_model=MoveResult)
async def unpin(tenant: str, route: str, body: UnpinRequest, request: Request, caller: Operator) -> Response:
    """Ends a pin that somebody set on a node; the node is told as soon as it is linked."""
    hub = hub_of(request)
    node = hub.fleet.nodes.get(body.node)
    if node is None:
        raise Refused("unknown_node", f"there is no node {body.node!r}", fix="loradeck node list")

    def draft() -> Draft:
        pointer = hub.route(tenant, route)[2]
        return pins_and_notes.unpin(pointer, body, actor_of(caller), until_ms=hub.pins.known(node, pointer.key).at_ms)

    return await _said(hub, body.idempotency_key, draft)


@router.post(PAGE + "/annotate", response_model=MoveResult)
async def annotate(tenant: str, route: str, body: AnnotateRequest, request: Request, caller: Operator) -> Response:
    """Adds an incident and a reason to an event of the past."""
    hub = hub_of(request)
    hub.route(tenant, route)
    event = await hub.store(lambda s: s.event(body.event))
    if event is None or (event.tenant, event.route) != (tenant, route):
        raise Refused("unknown_event", f"{tenant}/{route} has no such event", detail=body.event)
    return await _said(hub, body.idempotency_key, lambda: pins_and_notes.annotate(event, body, actor_of(caller)))


@router.get("/moves/{key}", response_model=MoveResult)
async def by_key(key: str, request: Request, caller: Viewer) -> Response:
    """What became of the move that was sent under an idempotency key; 404: it never moved anything.

    A hub that may lack a part of the log (`log_behind`, `not_active`) does not say that of any key.
    """
    hub = hub_of(request)
    promotion = hub.promotions.of_key(key)
    if promotion is not None and not promotion.over.is_set():
        return answer(MoveResult(events=(), rev=hub.ledger.rev, epoch=hub.ledger.epoch, pending=promotion.id))
    committed = await hub.store(lambda s: s.lookup(key))
    if committed is None:
        hub.check_moves()
        raise Refused("unknown_key", "this key never moved anything", detail=key, fix="it is safe to send it again")
    return answer(await outcome(hub, committed, "committed", 0))
