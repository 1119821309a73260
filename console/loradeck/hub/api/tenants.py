"""Tenants, their callers' keys, their routes' settings, and what is known of their requests."""

import hashlib
import secrets
from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, move
from loradeck.hub.api.parameters import PAGE, Maker, Releaser, ThisHub, Viewer, ViewerOfEach
from loradeck.hub.hub import Hub
from loradeck.rules.clocks import MINUTE_MS
from loradeck.rules.data import policy, quotas
from loradeck.rules.errors import Refused
from loradeck.rules.moves import tenants
from loradeck.rules.moves.draft import Actor
from loradeck.rules.quality import gate_judge, gates
from loradeck.rules.quality.loosening import loosened, moves_anchor, needs_two
from loradeck.rules.serving.capacity import GOES_ON_DEMAND
from loradeck.rules.serving.residency import promote_asks
from loradeck.schemas.answer_ledger import Explained, SegmentKept
from loradeck.schemas.counts import HISTORY_HOURS, HISTORY_MINUTES, RouteHistory
from loradeck.schemas.dataset_ledger import DataPolicy, Use
from loradeck.schemas.ids import LARGEST_INT, Digest, Name, Reason, Strict
from loradeck.schemas.incident import RelatedReleases
from loradeck.schemas.log import Draft
from loradeck.schemas.responses import KeyCreated
from loradeck.schemas.route import RouteConfig, Suggestions, SuggestRequest
from loradeck.schemas.state import TenantRow
from loradeck.schemas.tenant import CallerKey, Quota, QuotaUse, TenantCreate, TenantState
from loradeck.schemas.trace import SAMPLES, Sampled, Traced

router = APIRouter(prefix="/v1", tags=["tenants"], route_class=Guarded)


Last = Annotated[int, Query(ge=1, le=20_000, description="requests of each router at most")]


class Why(Strict):
    """The reason for a suspension, its end, or an offboarding."""

    reason: Reason = ""


async def _change(hub: Hub, caller: Caller, tenant: str, draft: Callable[[TenantState, Actor], Draft]) -> TenantState:
    """Changes a tenant. Returns it as it is then."""
    await move(hub, caller, secrets.token_hex(16), lambda: draft(hub.log.state.tenant(tenant), actor_of(caller)))
    return hub.log.state.tenant(tenant)


@router.get("/tenants")
async def listed(hub: ThisHub, caller: ViewerOfEach) -> list[TenantState]:
    """Lists all tenants with their routes' settings, offboarded ones too."""
    return [tenant for name, tenant in sorted(hub.log.state.tenants.items()) if caller.sees(name)]


@router.get("/tenants/{tenant}")
async def one(tenant: str, hub: ThisHub, caller: Viewer) -> TenantState:
    """Returns one tenant by its name."""
    return hub.log.state.tenant(tenant)


@router.post("/tenants")
async def create(body: TenantCreate, hub: ThisHub, caller: Releaser) -> TenantState:
    """Creates a tenant without routes. A name is never used twice."""
    key = secrets.token_hex(16)
    await move(hub, caller, key, lambda: tenants.create(hub.log.state.tenants, body.name, actor_of(caller)))
    return hub.log.state.tenant(body.name)


@router.post("/tenants/{tenant}/suspend")
async def suspend(tenant: str, hub: ThisHub, caller: Releaser, body: Why | None = None) -> TenantState:
    """Suspends a tenant: routers refuse its callers from now on."""
    return await _change(hub, caller, tenant, partial(tenants.suspend, reason=body.reason if body else ""))


@router.post("/tenants/{tenant}/resume")
async def resume(tenant: str, hub: ThisHub, caller: Releaser, body: Why | None = None) -> TenantState:
    """Ends a tenant's suspension."""
    return await _change(hub, caller, tenant, partial(tenants.resume, reason=body.reason if body else ""))


@router.post("/tenants/{tenant}/offboard")
async def offboard(tenant: str, hub: ThisHub, caller: Releaser, body: Why | None = None) -> TenantState:
    """Offboards a tenant for ever: its table entries become tombstones, its callers' keys end, and the key of its rows
    is destroyed.
    """
    done = await _change(hub, caller, tenant, partial(tenants.offboard, reason=body.reason if body else ""))
    await hub.garbage.drop_erased()
    return done


@router.put("/tenants/{tenant}/data-policy")
async def set_data_policy(
    tenant: str,
    body: DataPolicy,
    hub: ThisHub,
    caller: Releaser,
    reason: Reason = "",
    was: Annotated[Digest | None, Query(description="digest of the policy that it is to replace")] = None,
) -> DataPolicy:
    """Replaces a tenant's data policy. It binds jobs from now on; without its consent shadows are asked nothing, and
    nodes remove the samples that they have kept.
    """
    draft = partial(tenants.set_data_policy, reason=reason, was=was)
    return (await _change(hub, caller, tenant, lambda found, by: draft(found, body, by))).data


@router.get("/tenants/{tenant}/quota")
async def quota(tenant: str, hub: ThisHub, caller: Viewer) -> QuotaUse:
    """The quota of a tenant, and what of it is used."""
    state = hub.log.state.tenant(tenant)
    weights = quotas.weights(hub.catalogue.weights(tenant, hub.facts.revoked))
    more = {"weights": weights, "slots": quotas.slots(state.routes, hub.pools.slotted)}
    return quotas.used(state.quota, hub.catalogue.kept(tenant, hub.facts.deprecated)).model_copy(update=more)


@router.put("/tenants/{tenant}/quota")
async def set_quota(tenant: str, body: Quota, hub: ThisHub, caller: Releaser, reason: Reason = "") -> QuotaUse:
    """Replaces what a tenant may have. Whoever is a releaser of some tenants sets none."""
    if caller.tenants is not None:
        raise Refused(
            "forbidden", "a tenant's own releaser does not set its quota", fix="ask a releaser of all tenants"
        )
    await _change(hub, caller, tenant, lambda found, by: tenants.set_quota(found, body, by, reason=reason))
    return await quota(tenant, hub, caller)


@router.post("/tenants/{tenant}/keys")
async def create_key(tenant: str, hub: ThisHub, caller: Releaser) -> KeyCreated:
    """Creates a key for the tenant's own callers. Routers know its hash as soon as they have the entry."""
    secret = f"sk-{secrets.token_hex(24)}"
    key = CallerKey(id=f"k{secrets.token_hex(6)}", sha256=hashlib.sha256(secret.encode()).hexdigest())
    await _change(hub, caller, tenant, lambda found, by: tenants.add_key(found, key, by))
    return KeyCreated(id=key.id, key=secret)


@router.delete("/tenants/{tenant}/keys/{key}", status_code=204, response_class=Response)
async def withdraw_key(tenant: str, key: str, hub: ThisHub, caller: Releaser) -> Response:
    """Withdraws a caller's key."""
    await _change(hub, caller, tenant, lambda found, by: tenants.remove_key(found, key, by))
    return Response(status_code=204)


@router.get(PAGE, response_model=TenantRow)
async def row(
    tenant: str,
    route: str,
    hub: ThisHub,
    caller: Viewer,
    promote: Digest | None = None,
    shadow: Annotated[int | None, Query(ge=0, le=1000, description="share of the requests, in thousandths")] = None,
) -> Response:
    """The row of one pointer, with the preview of R, what to ask before a promote of the release `promote`, and what a
    shadow of a share would cost.
    """
    hub.log.state.route(tenant, route)
    row = hub.rows.tenant((tenant, route))
    candidate = hub.catalogue.release(promote, tenant) if promote is not None else None
    if candidate is not None:
        room = hub.capacity.prior_room(row.key, candidate, hub.clock.now_ms())
        fits = await hub.capacities.promote(row.key, candidate, hub.clock.now_ms(), caller.sees, more=False)
        on_demand = hub.capacity.goes_on_demand(row.key, candidate)
        asks = GOES_ON_DEMAND if on_demand else promote_asks(room)
        said = {"promote_asks": asks, "promote_on_demand": on_demand, "promote_fits": fits}
        row = row.model_copy(update=said)
    if shadow is not None:
        row = row.model_copy(update={"shadow_load": hub.rows.shadow_load(row, shadow)})
    return Response(row.model_dump_json(), media_type="application/json")


@router.get(f"{PAGE}/company")
async def related(tenant: str, route: str, hub: ThisHub, caller: Viewer) -> RelatedReleases:
    """Lists other live releases that share a dataset, recipe, move to another base or batch, with their health."""
    return hub.related.of(tenant, route, caller.sees)


@router.get(f"{PAGE}/history")
async def history(
    tenant: str,
    route: str,
    hub: ThisHub,
    caller: Viewer,
    minutes: Annotated[
        int, Query(ge=1, le=60 * HISTORY_HOURS, description="so many, the one that runs included")
    ] = 180,
) -> RouteHistory:
    """The requests of a route by the minute, up to a week back; of more by the hour, up to 400 days back."""
    hub.log.state.route(tenant, route)
    since = hub.clock.now_ms() // MINUTE_MS - minutes + 1
    if minutes > HISTORY_MINUTES:
        return await hub.incident_reports.hours((tenant, route), since=since // 60)
    return await hub.incident_reports.history((tenant, route), since=since)


@router.get(f"{PAGE}/traces")
async def traces(
    tenant: str, route: str, hub: ThisHub, caller: Viewer, release: Digest | None = None, last: Last = 200
) -> Traced:
    """The newest requests of each router, with the ids that callers were given, and what may be missing."""
    hub.log.state.route(tenant, route)
    return await hub.traces.collect((tenant, route), release, last)


@router.get(f"{PAGE}/samples", responses={409: {}, 503: {}, 507: {}})
async def samples(
    tenant: str,
    route: str,
    hub: ThisHub,
    caller: Releaser,
    release: Digest | None = None,
    last: Annotated[int, Query(ge=1, le=SAMPLES, description="samples of each node at most")] = SAMPLES,
) -> Sampled:
    """Reads samples of bad answers with their questions, of the nodes that keep them. Each reading is audited."""
    hub.log.state.route(tenant, route)
    return await hub.samples.read((tenant, route), release, last, caller)


@router.post(f"{PAGE}/canaries/suggest")
async def suggest_canaries(
    tenant: str, route: str, body: SuggestRequest, hub: ThisHub, caller: Releaser
) -> Suggestions:
    """Tries rows of a dataset as canaries of a release, on an engine that serves. Nothing is changed."""
    return await hub.canary_suggestions.suggest((tenant, route), body)


@router.put(PAGE)
async def set_route(
    tenant: str,
    route: Name,
    body: RouteConfig,
    hub: ThisHub,
    caller: Releaser,
    reason: Reason = "",
    break_glass: bool = False,
) -> RouteConfig:
    """Replaces a route's settings; creates the route where there was none.

    Signers and gates are loosened with a reason; where the gate's review asks for two people, once a second one has
    asked for the same within a day, or at once on the hub's host with `break_glass`. Two also move a gate's anchor; a
    gate without one keeps the one that stands.
    """
    key, anchor = (tenant, route), hub.gates.anchor((tenant, route))
    if body.gate is not None:
        body, items = body.model_copy(update={"gate": hub.gates.anchored(key, body.gate)}), {}
        groups = {}
        assert body.gate is not None
        if body.gate.anchor is not None:
            hub.catalogue.known(tenant, body.gate.anchor)
        for part in body.gate.suites:
            suite = hub.catalogue.suite(tenant, part.suite)
            items[part.suite], groups[part.suite] = suite.items, await hub.gates.groups(part.suite)
        if body.gate != hub.log.state.config(key).gate:  # a gate that stands is not in the way of other settings
            gates.require_big_enough(body.gate, items, groups)
            gate_judge.require_known(body.gate.judge)
            await hub.gates.check_suites(tenant, body.gate)
            gates.require_stages(hub.log.state.tenant(tenant).routes, route, body.gate)
    if body.checks.judge is not None and body.checks.judge.release is not None:
        hub.catalogue.known(tenant, body.checks.judge.release)
    for start, end in body.freeze:
        if start >= end:
            raise Refused(
                "invalid_request",
                "a freeze window ends before it begins",
                detail=f"freeze {start} to {end}",
                fix="give [from_ms, to_ms)",
            )
    agreed: str | None = None
    before = hub.log.state.tenant(tenant).routes.get(route)
    two = before is not None and loosened(before, body, anchor) and (needs_two(before) or moves_anchor(body, anchor))
    if before is not None and two and reason and not break_glass:
        change = {"from": before.model_dump(mode="json"), "to": body.model_dump(mode="json")}
        agreed = hub.proposals.agreed(key, change, caller.actor, caller.token)

    def decide() -> list[Draft]:
        known, actor = hub.log.state.tenant(tenant), actor_of(caller)
        tenants.check_placement(hub.log.state.pools, body)
        quotas.check_slots(known, route, body, hub.pools.slotted)
        stood = known.routes.get(route)
        judged = stood and (stood.checks.judge, hub.log.state.labels(stood))
        if body.checks.judge is not None and judged != (body.checks.judge, hub.log.state.labels(body)):
            policy.check_use(known, Use.JUDGE, hub.log.state.labels(body))
        drafted = tenants.set_route(
            known,
            route,
            body,
            actor,
            pointer=hub.log.state.pointers.get(key),
            reason=reason,
            agreed=agreed,
            alone=break_glass,
            anchor=hub.gates.anchor(key),
        )
        serving = sorted({node.name for node, _ in hub.replicas.serving(key)})
        if body.pool is None or route in known.assigned or not serving:
            return [drafted]
        # It stays where it is, until the hub has brought it to nodes of the pool.
        return [drafted, tenants.assign(key, serving, actor, why="as it was placed")]

    await move(hub, caller, secrets.token_hex(16), decide)
    return hub.log.state.config(key)


@router.put("/ledger/{tenant}/{sha256}")
async def put_segment(tenant: Name, sha256: Digest, hub: ThisHub, request: Request, caller: Maker) -> SegmentKept:
    """Takes a segment of the answer ledger from the node that made it. Taking it again changes nothing."""
    if caller.node is None:
        raise Refused("forbidden", "segments of the answer ledger come from nodes", detail=caller.actor)
    return SegmentKept(kept=await hub.ledger.take(caller.node, tenant, sha256, await request.body()))


@router.get("/requests/{request_id}", responses={409: {}})
async def explain(
    request_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$")],
    hub: ThisHub,
    caller: ViewerOfEach,
    tenant: Name | None = None,
    at_ms: Annotated[int | None, Query(ge=0, le=LARGEST_INT, description="about when it was asked")] = None,
) -> Explained:
    """Explains an answer by the x-request-id that its caller got: release, base, data, gate, move, and their proof.

    Without `tenant` all that the caller sees are searched; without `at_ms` the time that the id begins with, or the
    last two days where it has none.
    """
    if tenant is not None:
        caller.at(tenant)
    return await hub.explanations.of(request_id, tenant=tenant, at_ms=at_ms, sees=caller.sees)
