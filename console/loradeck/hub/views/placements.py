"""Placements as they are explained, and what would move if nodes were gone or one more were there."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from loradeck.hub.automation.pooled_routes import Planned, PooledRoutes, assigned_beside
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.log.clock import Clock
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving.assignment import Assignment, Demand, explained
from loradeck.rules.serving.residency import wanted
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.pool import (
    MOST_MOVES,
    PlacementChoice,
    PlacementExplained,
    PlacementPreview,
    PlannedMove,
    PlannedNode,
)

NEW = "one-more"
"""The name of the node that a preview adds."""

NEW_ROUTES = "+"
"""In place of a tenant: the routes that a preview adds. No tenant can have this name."""

Serving = Mapping[PointerKey, tuple[Name, ...]]


@dataclass(eq=False)
class Placements:
    """Answers questions about the assignment of routes to nodes of pools."""

    _state: FoldedLog
    _fleet: Fleet
    _tables: NodeTables
    _pools: Pools
    _routes: PooledRoutes
    _clock: Clock

    async def explain(self, key: PointerKey) -> PlacementExplained:
        """Says why a route is where it is. Raises: Refused: unknown_tenant, unknown_route, not_pooled, offboarded."""
        tenant, config, _ = self._state.route(*key)
        if config.pool is None:
            fix = f"loradeck route set {'/'.join(key)} --pool POOL"
            raise Refused("not_pooled", f"{'/'.join(key)} is placed by labels", detail=str(config.placement), fix=fix)
        plan = next((plan for plan in (await self._routes.plan()).values() if key in plan.demands), None)
        if plan is None:
            raise Refused("offboarded", f"{tenant.name} is offboarded")
        demand, now = plan.demands[key], tenant.assigned.get(key[1], ())
        choices = [
            PlacementChoice(
                node=one.replica,
                distance=round(one.distance, 6),
                load=round(plan.outcome.load[one.replica], 2),
                room=plan.outcome.room[one.replica],
                serves=one.serves,
                assigned=one.replica in now,
                full=one.full,
            )
            for one in explained(key, demand, plan.capacity, plan.outcome)
        ]
        pool = self._state.pools[config.pool.pool]
        out = {name: self._pools.trouble(name) or "cannot load it" for name in self._pools.slots(pool)}
        given = {choice.node for choice in choices}
        return PlacementExplained(
            tenant=key[0],
            route=key[1],
            pool=config.pool.pool,
            replicas=config.pool.replicas,
            weight=demand.load,
            choices=tuple(choices),
            out={name: why for name, why in out.items() if name not in given},
        )

    async def preview(
        self, without: Collection[Name], slots: int | None, pool: Name | None, routes: int = 0
    ) -> PlacementPreview:
        """Computes anew without some nodes, with one more that has so many slots, in a pool (None: in each), and with
        new routes in that pool, each on one node and in one slot before all others.
        """
        before: dict[PointerKey, tuple[Name, ...]] = {}
        after: dict[PointerKey, tuple[Name, ...]] = {}
        capacity: dict[Name, int] = {} if slots is None else {NEW: slots}
        plans = dict(await self._routes.plan())
        if pool is not None and not any(self._is_in(pool, key) for plan in plans.values() for key in plan.demands):
            plans[NEW_ROUTES] = await self._without_routes(pool)
        for base, plan in plans.items():
            before |= plan.outcome.serving
            after |= (await self._otherwise(plan, without, slots, pool, routes)).serving
            for name in plan.capacity:
                node = self._fleet.nodes[name]
                capacity[name] = sum(one.slots for one in node.replicas if base in ("", NEW_ROUTES, one.base))
        moves = [
            PlannedMove(
                tenant=key[0],
                route=key[1],
                leaves=tuple(name for name in some if name not in after[key]),
                joins=tuple(name for name in after[key] if name not in some),
            )
            for key, some in sorted(before.items())
            if set(some) != set(after[key])
        ]
        cold = self._cold(before, capacity), self._cold(after, capacity)
        was, will = ({key for keys in some.values() for key in keys} for some in cold)
        nodes = [
            PlannedNode(
                node=name,
                slots=count,
                routes=(_routes_on(before, name), _routes_on(after, name)),
                cold=(len(cold[0].get(name, ())), len(cold[1].get(name, ()))),
            )
            for name, count in sorted(capacity.items())
        ]
        return PlacementPreview(
            moves=tuple(moves[:MOST_MOVES]),
            total=len(moves),
            nodes=tuple(nodes),
            colder=_named(will - was),
            warmer=_named(was - will),
        )

    def _is_in(self, pool: Name, key: PointerKey) -> bool:
        placed = self._state.config(key).pool
        return placed is not None and placed.pool == pool

    async def _without_routes(self, pool: Name) -> Planned:
        """The plan of a pool in which no route is yet."""
        config = self._state.pools[pool]
        slots = self._pools.slots(config, config.base)
        capacity = {name: float(max(1, count)) for name, count in slots.items() if not self._pools.trouble(name)}
        return Planned(asked={}, demands={}, capacity=capacity, outcome=await assigned_beside({}, capacity))

    async def _otherwise(
        self, plan: Planned, without: Collection[Name], slots: int | None, pool: Name | None, routes: int
    ) -> Assignment:
        capacity = {name: weight for name, weight in plan.capacity.items() if name not in without}
        more = {NEW: float(max(1, slots))} if slots is not None else {}
        pools: dict[tuple[bool, tuple[Name, ...]], tuple[Name, ...]] = {}
        demands = {}
        for key, demand in plan.demands.items():
            in_pool = plan.asked[key][0].pool == pool
            name = (in_pool or pool is None, tuple(demand.pool))
            if name not in pools:
                pools[name] = (*(one for one in name[1] if one in capacity), *(more if name[0] else ()))
            demands[key] = replace(demand, pool=pools[name], now=plan.outcome.serving[key])
        there = next((names for (here, _), names in pools.items() if here), () if demands else (*capacity, *more))
        if pool is not None and there:
            demands |= {(NEW_ROUTES, str(n)): Demand(replicas=1, pool=there) for n in range(routes)}
        return await assigned_beside(demands, capacity | (more if there else {}))

    def _cold(self, serving: Serving, capacity: Mapping[Name, int]) -> dict[Name, set[PointerKey]]:
        """By node, the routes whose live release would have no slot there."""
        entries, found = self._tables.entries, {}
        by_node = defaultdict[Name, list[PointerKey]](list)
        for key, names in serving.items():
            for name in names:
                by_node[name].append(key)
        for name, slots in capacity.items():
            node = self._fleet.nodes.get(name)
            table = self._tables.table(node.labels, name, own=False) if node is not None else None
            fixed = [key for key in self._tables.placed(table) if key not in serving] if table is not None else []
            here = [entries[key] for key in (*fixed, *by_node[name]) if key in entries]
            here.sort(key=lambda entry: -(entry.moved_ms or 0))
            order = [ref.id for ref in wanted(here, slots=slots, now_ms=self._clock.now_ms())]
            short = set(order[max(0, slots - sum(key[0] == NEW_ROUTES for key in by_node[name])) :])
            found[name] = {entry.key for entry in here if entry.current is not None and entry.current.id in short}
        return found


def _routes_on(serving: Serving, name: Name) -> int:
    return sum(name in some for some in serving.values())


def _named(keys: Iterable[PointerKey]) -> tuple[str, ...]:
    return tuple("/".join(key) for key in sorted(keys))[:MOST_MOVES]
