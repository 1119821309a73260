"""The fold of the log: the state of pointers and tenants after a number of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loradeck.rules.errors import Refused
from loradeck.rules.serving.placement import ANYWHERE, Site, fits, site_of
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, PointerState
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import CallerKey, Quota, TenantState


class LogGap(ValueError):
    """An event does not follow the events folded so far. The fold is unchanged."""


class FoldedLog:
    """Pointers and tenants as the log's events up to `rev` leave them.

    Apply events in order, one by one, from one thread.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.rev = 0
        self.hash = GENESIS
        self.pointers: dict[PointerKey, PointerState] = {}
        self.tenants: dict[str, TenantState] = {}
        self.pools: dict[Name, PoolConfig] = {}

    @classmethod
    def of(
        cls,
        *,
        epoch: int,
        rev: int,
        hash: str,
        pointers: Iterable[PointerState],
        tenants: Iterable[TenantState],
        pools: Mapping[Name, PoolConfig],
    ) -> FoldedLog:
        """Resumes from a snapshot of the store."""
        folded = cls()
        folded.epoch, folded.rev, folded.hash = epoch, rev, hash
        folded.pointers = {p.key: p for p in pointers}
        folded.tenants = {t.name: t for t in tenants}
        folded.pools = dict(pools)
        return folded

    # ---- queries -------------------------------------------------------------------------------------------

    def tenant(self, name: str) -> TenantState:
        """A tenant by its name, offboarded ones too. Raises: Refused `unknown_tenant`."""
        tenant = self.tenants.get(name)
        if tenant is None:
            raise Refused(
                "unknown_tenant", f"there is no tenant {name!r}", fix="loradeck tenant ls", context={"tenant": name}
            )
        return tenant

    def route(self, tenant: str, route: str) -> tuple[TenantState, RouteConfig, PointerState]:
        """A pointer with its tenant and its route's settings. Raises: Refused `unknown_tenant` or `unknown_route`."""
        state, key = self.tenant(tenant), (tenant, route)
        if route not in state.routes and key not in self.pointers:
            raise Refused(
                "unknown_route",
                f"{tenant} has no route {route!r}",
                detail=f"it has: {', '.join(sorted(state.routes)) or 'none'}",
                fix=f"loradeck route set {tenant} {route}",
            )
        return state, self.config(key), self.pointer(key)

    def config(self, key: PointerKey) -> RouteConfig:
        """The settings of a route; the defaults for one that has none."""
        tenant = self.tenants.get(key[0])
        return tenant.routes.get(key[1], _DEFAULT) if tenant else _DEFAULT

    def labels(self, config: RouteConfig) -> Mapping[str, str]:
        """The labels that every node carries on which a route with these settings is placed."""
        pool = self.pools.get(config.pool.pool) if config.pool is not None else None
        return config.placement if config.pool is None else pool.labels if pool is not None else {}

    def site(self, key: PointerKey) -> Site:
        """The nodes on which a route is placed."""
        tenant = self.tenants.get(key[0])
        return site_of(tenant, key[1]) if tenant else ANYWHERE

    def may_hold(self, key: PointerKey, node: Name, labels: Mapping[str, str]) -> bool:
        """Tells whether a node may serve a route by moves that this log lacks: of a pool, any node with its labels."""
        pooled = self.config(key).pool
        pool = self.pools.get(pooled.pool) if pooled is not None else None
        by_pool = pooled is not None and (pool is None or fits(labels, pool.labels))
        return by_pool or self.site(key).holds(node, labels)

    def pointer(self, key: PointerKey) -> PointerState:
        """The state of a pointer; an empty one, at generation 0, where nothing was ever committed for it."""
        return self.pointers.get(key) or PointerState(tenant=key[0], route=key[1])

    def routes(self) -> list[PointerKey]:
        """Every (tenant, route), sorted."""
        keys = {(tenant.name, route) for tenant in self.tenants.values() for route in tenant.routes}
        return sorted(keys | self.pointers.keys())

    def pointers_of(self, event: Event) -> list[PointerKey]:
        """The pointers that an event concerns: its own, or those of all its tenant's routes."""
        if event.route is not None:
            return [(event.tenant, event.route)]
        tenant = self.tenants.get(event.tenant)
        return [(event.tenant, route) for route in tenant.routes] if tenant else []

    # ---- folding -------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Folds the next event in.

        Raises:
            LogGap: it is not the next rev, or belongs to another log.
            KeyError: it changes a tenant that was never created.
        """
        if event.rev != self.rev + 1:
            raise LogGap(f"rev {event.rev} does not follow rev {self.rev}")
        if event.prev_hash != self.hash:
            raise LogGap(
                f"rev {event.rev} belongs to another log: its previous hash differs from that of rev {self.rev}"
            )
        tenant = tenant_after(self.tenants.get(event.tenant), event)
        if tenant is not None:
            self.tenants[event.tenant] = tenant
        if event.pointer is not None:
            self.pointers[event.pointer.key] = event.pointer
        if event.kind is EventKind.POOL:
            self.pools = pools_after(self.pools, event)
        self.rev, self.hash, self.epoch = event.rev, event.hash, max(self.epoch, event.epoch)

    def extend(self, events: Iterable[Event]) -> None:
        """Applies events in order; raises as `apply` does."""
        for event in events:
            self.apply(event)


def pools_after(pools: Mapping[Name, PoolConfig], event: Event) -> dict[Name, PoolConfig]:
    """The pools after an event that sets or removes one."""
    name, config = str(event.payload["pool"]), event.payload["config"]
    others = {known: kept for known, kept in pools.items() if known != name}
    return others if config is None else {**others, name: PoolConfig.model_validate(config)}


def tenant_after(tenant: TenantState | None, event: Event | Draft) -> TenantState | None:
    """The tenant's state after an event, also a drafted one; the identical object if that does not concern it.

    Raises: KeyError: the event changes a tenant that was never created.
    """
    kind = event.kind
    if kind not in TENANT_KINDS:
        return tenant
    if kind is EventKind.TENANT_CREATE:
        return TenantState(name=event.tenant)
    if tenant is None:
        raise KeyError(event.tenant)
    update: dict[str, object]
    if kind is EventKind.TENANT_SUSPEND:
        update = {"suspended": True}
    elif kind is EventKind.TENANT_RESUME:
        update = {"suspended": False}
    elif kind is EventKind.TENANT_OFFBOARD:
        update = {"offboarded": True, "keys": ()}
    elif kind is EventKind.ROUTE:
        if event.route is None:
            raise ValueError(f"an event sets a route of {event.tenant} without naming it")
        config = RouteConfig.model_validate(event.payload["config"])
        update = {"routes": {**tenant.routes, event.route: config}}
        if config.pool is None and event.route in tenant.assigned:
            update["assigned"] = {route: nodes for route, nodes in tenant.assigned.items() if route != event.route}
    elif kind is EventKind.QUOTA:
        update = {"quota": Quota.model_validate(event.payload["quota"])}
    elif kind is EventKind.ASSIGN:
        update = {"assigned": {**tenant.assigned, str(event.route): tuple(map(str, event.payload["nodes"]))}}
    elif kind is EventKind.DATA_POLICY:
        update = {"data": DataPolicy.model_validate(event.payload["policy"])}
    elif "add" in event.payload:
        key = CallerKey.model_validate(event.payload["add"])
        update = {"keys": (*(k for k in tenant.keys if k.id != key.id), key)}
    else:
        update = {"keys": tuple(k for k in tenant.keys if k.id != event.payload["remove"])}
    return tenant.model_copy(update=update)


TENANT_KINDS = frozenset(
    {
        EventKind.TENANT_CREATE,
        EventKind.TENANT_SUSPEND,
        EventKind.TENANT_RESUME,
        EventKind.TENANT_OFFBOARD,
        EventKind.ROUTE,
        EventKind.KEY,
        EventKind.DATA_POLICY,
        EventKind.ASSIGN,
        EventKind.QUOTA,
    }
)
"""Kinds of events that create or change a tenant; no other changes more than a pointer."""

_DEFAULT = RouteConfig()
