"""Rewind: many pointers back to an earlier rev in one txn; and recover, after the hub's database was restored."""

from collections.abc import Callable, Mapping, Sequence

from fastapi import APIRouter
from starlette.responses import Response

from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, answer, move, nothing_moved, outcome
from loradeck.hub.api.parameters import Local, OperatorOfEach, ThisHub, Wait, Waiting
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import rewind as rules
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import FLEET, Draft, PointerState
from loradeck.schemas.moves import MoveResult, RecoverRequest, RecoveryPlan, RewindPlan, RewindRequest
from loradeck.schemas.responses import LostAdapters

router = APIRouter(prefix="/v1", tags=["rewind"], route_class=Guarded)


async def _to(hub: Hub, body: RewindRequest) -> tuple[int, int | None]:
    """(rev to go back to, when it was committed). Raises: Refused `invalid_request`, `unknown_rev`."""
    if (body.to_rev is None) == (body.time_ms is None):
        raise Refused(
            "invalid_request", "a rewind names a rev or a time", detail="to_rev, time_ms", fix="send one of them"
        )
    if body.to_rev is not None:
        rev = body.to_rev
        if not 0 <= rev <= hub.log.state.rev:
            raise Refused("unknown_rev", f"this log has no rev {rev}", detail=f"it is at rev {hub.log.state.rev}")
    else:
        time_ms = body.time_ms or 0
        rev = await hub.store(lambda s: s.rev_at(time_ms))
    if rev == 0:
        return 0, None
    events = await hub.store(lambda s: s.since(rev - 1, 1))
    return rev, events[0].at_ms if events else None


def _labelled(hub: Hub, plan: RewindPlan) -> RewindPlan:
    """The plan with the labels of its releases."""

    def label(tenant: str, release: str | None) -> str | None:
        view = hub.catalogue.view(release, tenant) if release is not None else None
        return f"{view.label}/{view.base_label}" if view is not None else None

    steps = (
        step.model_copy(
            update={
                "from_label": label(step.tenant, step.from_release),
                "to_label": label(step.tenant, step.to_release),
            }
        )
        for step in plan.steps
    )
    return plan.model_copy(update={"steps": tuple(steps)})


@router.post("/rewind", response_model=RewindPlan | MoveResult)
async def rewind(body: RewindRequest, hub: ThisHub, caller: OperatorOfEach, wait: Wait) -> Response:
    """Moves pointers back. A dry run answers with a plan; executing sends its generations back, as a move does."""
    caller = caller.at(*(body.tenants or [FLEET]))
    for tenant in body.tenants:
        hub.log.state.tenant(tenant)
    rev, at_ms = await _to(hub, body)
    then: Mapping[PointerKey, PointerState] = {p.key: p for p in await hub.store(lambda s: s.pointers_at(rev))}
    return await put_back(hub, caller, body, then, wait, to_rev=rev, at_ms=at_ms)


async def put_back(
    hub: Hub,
    caller: Caller,
    body: RewindRequest,
    then: Mapping[PointerKey, PointerState],
    wait: Waiting,
    *,
    to_rev: int,
    at_ms: int | None = None,
    only: bool = False,
    also: Callable[[Sequence[Draft]], Sequence[Draft]] = lambda drafts: drafts,
) -> Response:
    """Answers with the plan of a rewind, or makes it.

    Args:
        then: the pointers as they were. `only`: the others stay.
        also: completes the drafts with what is committed with them.
    """
    plans: list[RewindPlan] = []

    def plan() -> RewindPlan:
        now = {key: pointer for key, pointer in hub.log.state.pointers.items() if not only or key in then}
        return rules.plan(
            now,
            then,
            body,
            {key: hub.facts.of(key) for key in now},
            to_rev=to_rev,
            at_ms=at_ms,
            known=hub.catalogue.releases.keys(),
            offboarded={t.name for t in hub.log.state.tenants.values() if t.offboarded},
        )

    if body.dry_run:
        return Response(_labelled(hub, plan()).model_dump_json(), media_type="application/json")

    def decide() -> Sequence[Draft]:
        plans.append(plan())
        known = hub.catalogue.releases.keys()
        actor = actor_of(caller, body.ticket)
        drafts = also(rules.drafts(plans[0], hub.log.state.pointers, then, body, actor, known=known))
        if not drafts:
            raise Refused("nothing_to_move", "no pointer of the plan moves", detail=f"rev {to_rev}")
        return drafts

    try:
        result = await move(hub, caller, body.idempotency_key, decide, wait)
    except Refused as refused:
        if refused.code != "nothing_to_move":
            raise
        result = nothing_moved(hub)
    skipped = tuple(step for step in plans[0].steps if step.skipped is not None) if plans else ()
    return answer(result.model_copy(update={"skipped": skipped}))


@router.post("/recover/files")
async def recover_files(hub: ThisHub, caller: Local) -> LostAdapters:
    """Has nodes send the adapters that pointers name and this hub lacks, and registers those that have come.

    Call it until nothing is lacking, or no node sends what is.
    """
    return await hub.lost_files.step()


@router.post("/recover", response_model=RecoveryPlan | MoveResult)
async def recover(body: RecoverRequest, hub: ThisHub, caller: Local) -> Response:
    """Adopts or drops the moves that nodes have seen and this log lacks, and raises the epoch above theirs.

    A dry run answers with a plan; executing sends its digest back.
    """
    if body.dry_run:
        plan = await hub.recovery.plan(unproven=body.unproven)
        return Response(plan.model_dump_json(), media_type="application/json")
    replayed = await hub.store(lambda s: s.lookup(body.idempotency_key))
    if replayed is None:
        replayed = await hub.recovery.run(
            body.idempotency_key, body.reason, actor_of(caller), plan=body.plan, unproven=body.unproven
        )
    return answer(await outcome(hub, replayed))
