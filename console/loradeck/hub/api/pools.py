"""Pools: what makes a node one of them, which nodes that are, what they hold, and where routes are placed in them."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, move
from loradeck.hub.api.parameters import PAGE, Releaser, ThisHub, Viewer
from loradeck.rules.data import policy
from loradeck.rules.moves import tenants
from loradeck.schemas.capacity import CapacityPlan, CapacityRow
from loradeck.schemas.dataset_ledger import Use
from loradeck.schemas.ids import Digest, Name, Reason
from loradeck.schemas.log import Draft
from loradeck.schemas.pool import PlacementExplained, PlacementPreview, PoolConfig, PoolRow

router = APIRouter(prefix="/v1", tags=["nodes"], route_class=Guarded)


@router.get("/pools")
async def listed(hub: ThisHub, caller: Viewer) -> list[PoolRow]:
    """The pools by name, with their nodes."""
    return [hub.pools.row(name) for name in sorted(hub.log.state.pools)]


@router.get("/pools/{pool}")
async def one(pool: str, hub: ThisHub, caller: Viewer) -> PoolRow:
    """A pool with its nodes."""
    tenants.known_pool(hub.log.state.pools, pool)
    return hub.pools.row(pool)


@router.put("/pools/{pool}")
async def set_pool(pool: Name, body: PoolConfig, hub: ThisHub, caller: Releaser, reason: Reason = "") -> PoolRow:
    """Sets what makes a node one of a pool; makes the pool where there was none. Its routes follow it."""
    if body.base is not None:
        hub.catalogue.check_base(body.base)
    state = hub.log.state

    def decide() -> Draft:
        for (tenant, _), config in tenants.pooled(state.tenants, pool):
            if config.checks.judge is not None and Use.JUDGE in state.tenant(tenant).data.uses:
                policy.check_use(state.tenant(tenant), Use.JUDGE, body.labels)
        return tenants.set_pool(state.pools, pool, body, actor_of(caller), reason=reason)

    await move(hub, caller, secrets.token_hex(16), decide)
    return hub.pools.row(pool)


@router.delete("/pools/{pool}", status_code=204, response_class=Response)
async def remove_pool(pool: str, hub: ThisHub, caller: Releaser, reason: Reason = "") -> Response:
    """Removes a pool that no route is placed in."""
    state = hub.log.state
    await move(
        hub,
        caller,
        secrets.token_hex(16),
        lambda: [tenants.remove_pool(state.pools, state.tenants, pool, actor_of(caller), reason=reason)],
    )
    return Response(status_code=204)


@router.get("/capacity")
async def capacity(hub: ThisHub, caller: Viewer) -> list[CapacityRow]:
    """Lists what pools, then nodes, hold at each level, and how requests for on-demand routes fared there."""
    return hub.capacities.rows()


@router.get("/pools/{pool}/capacity", responses={409: {}})
async def customers(
    pool: str,
    hub: ThisHub,
    caller: Viewer,
    routes: Annotated[int, Query(ge=1, le=10_000, description="new ones, each on one node")] = 1,
    always: Annotated[bool, Query(description="with two slots each; otherwise on demand, with one")] = False,
) -> CapacityPlan:
    """Says whether new routes fit into a pool, who would be colder for them, and what one more node would buy."""
    tenants.known_pool(hub.log.state.pools, pool)
    return await hub.capacities.customers(pool, routes, caller.sees, always=always)


@router.get(PAGE + "/capacity")
async def promote(tenant: str, route: str, promote: Digest, hub: ThisHub, caller: Viewer) -> CapacityPlan:
    """Says whether a promote fits, which routes would be colder for it, and what one more node would buy.

    Whoever sees some tenants is not told of one more node where that would not do: others' nodes are short then.
    """
    hub.log.state.route(tenant, route)
    release, now_ms = hub.catalogue.known(tenant, promote), hub.clock.now_ms()
    found = await hub.capacities.promote((tenant, route), release, now_ms, caller.sees, more=True)
    hidden = caller.tenants is not None and found.more is not None and not found.more.fits
    return found.model_copy(update={"more": None}) if hidden else found


@router.get(PAGE + "/placement", responses={409: {}})
async def explain(tenant: str, route: str, hub: ThisHub, caller: Viewer) -> PlacementExplained:
    """Says why a route of a pool is on its nodes, and which come next.

    Whoever sees some tenants is told of the nodes that serve it, and of no others.
    """
    found = await hub.placements.explain((tenant, route))
    if caller.tenants is None:
        return found
    mine = tuple(choice for choice in found.choices if choice.assigned)
    return found.model_copy(update={"choices": mine, "out": {}})


@router.get("/placement")
async def preview(
    hub: ThisHub,
    caller: Viewer,
    without: Annotated[str, Query(max_length=10_000, description="nodes by commas, as if they were gone")] = "",
    slots: Annotated[int | None, Query(ge=1, le=100_000, description="of one more node")] = None,
    pool: Annotated[Name | None, Query(description="that this one is of; none: each")] = None,
) -> PlacementPreview:
    """Says what would move, and which routes would be cold, if nodes were gone or one more were there."""
    gone = list(filter(None, without.split(",")))
    for name in gone:
        hub.fleet.known(name)
    if pool is not None:
        tenants.known_pool(hub.log.state.pools, pool)
    return await hub.placements.preview(gone, slots, pool)
