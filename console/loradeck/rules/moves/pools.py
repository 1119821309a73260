"""Events that set and remove pools, and that assign routes to nodes of them."""

from collections.abc import Mapping, Sequence

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, tenant_draft
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.log import FLEET, Draft, EventKind
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import TenantState

MOST = 256
"""Most pools of a hub."""


def set_pool(pools: Mapping[Name, PoolConfig], name: Name, config: PoolConfig, actor: Actor, *, reason: str) -> Draft:
    """Sets what makes a node one of a pool; makes the pool where there was none.

    Raises: Refused: no_change, too_many_pools.
    """
    if pools.get(name) == config:
        raise Refused("no_change", f"the pool {name} is set so already")
    if name not in pools and len(pools) >= MOST:
        raise Refused("too_many_pools", f"there are {len(pools)} pools", fix="loradeck pool rm one that is not used")
    return tenant_draft(EventKind.POOL, FLEET, actor, reason, {"pool": name, "config": config.model_dump(mode="json")})


def remove_pool(
    pools: Mapping[Name, PoolConfig], tenants: Mapping[str, TenantState], name: Name, actor: Actor, *, reason: str
) -> Draft:
    """Removes a pool that no route names. Raises: Refused: unknown_pool, pool_in_use."""
    known(pools, name)
    used = [f"{tenant}/{route}" for (tenant, route), _ in pooled(tenants, name)]
    if used:
        raise Refused(
            "pool_in_use",
            f"{len(used)} routes are placed in {name}",
            detail=", ".join(used[:8]),
            fix="place them elsewhere first: loradeck route set TENANT ROUTE --pool OTHER",
        )
    return tenant_draft(EventKind.POOL, FLEET, actor, reason, {"pool": name, "config": None})


def known(pools: Mapping[Name, PoolConfig], name: Name) -> PoolConfig:
    """A pool by its name. Raises: Refused: unknown_pool."""
    if name not in pools:
        there = ", ".join(sorted(pools)[:8]) or "none"
        raise Refused("unknown_pool", f"there is no pool {name!r}", detail=f"there is: {there}", fix="loradeck pool ls")
    return pools[name]


def pooled(tenants: Mapping[str, TenantState], name: Name | None = None) -> list[tuple[PointerKey, RouteConfig]]:
    """The routes that are placed in a pool, with their settings. `name`: of this pool; None: of any."""
    return [
        ((tenant.name, route), config)
        for tenant in tenants.values()
        if not tenant.offboarded
        for route, config in tenant.routes.items()
        if config.pool is not None and name in (None, config.pool.pool)
    ]


def check(pools: Mapping[Name, PoolConfig], config: RouteConfig) -> None:
    """Checks the placement of a route's settings. Raises: Refused: unknown_pool, invalid_request."""
    if config.pool is None:
        return
    known(pools, config.pool.pool)
    if config.placement:
        raise Refused(
            "invalid_request",
            "a route is placed by labels or in a pool, not by both",
            detail=f"placement {config.placement}, pool {config.pool.pool}",
            fix="the pool has labels of its own: loradeck pool show",
        )
    if config.min_replicas > config.pool.replicas:
        raise Refused(
            "invalid_request",
            "it asks for more proven replicas than it has nodes",
            detail=f"min_replicas {config.min_replicas}, replicas {config.pool.replicas}",
            fix="--replicas at least as many as --min-replicas",
        )


def assigned(key: PointerKey, nodes: Sequence[Name], actor: Actor, *, why: str) -> Draft:
    """Assigns a route of a pool to nodes. It moves nothing: the generation stays."""
    return tenant_draft(EventKind.ASSIGN, key[0], actor, why, {"nodes": list(nodes)}, route=key[1])
