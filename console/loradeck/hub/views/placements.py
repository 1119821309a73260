"""Placements as they are explained, and what would move if nodes were gone or one more were there."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from loradeck.hub.automation.pooled_routes import Planned, PooledRoutes, assigned_beside
from loradeck.hub.fleet.node_tables import NodeTables, Table
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.log.runtime import Clock
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving.assignment import Assignment, Demand, explained
from loradeck.rules.serving.capacity import ON_DEMAND_SLOTS, Holding, Outlook, outlook
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.pool import (
    MOST_MOVES,
    PlacementChoice,
    PlacementExplained,
    PlacementPreview,
    PlannedMove,
    PlannedNode,
)
from loradeck.schemas.table import TableEntry

NEW = "one-more"
"""The name of the node that a preview adds."""

NEW_ROUTES = "+"
"""In place of a tenant: the routes that a preview adds. No tenant can have this name."""

Serving = Mapping[PointerKey, tuple[Name, ...]]


class Served(NamedTuple):
    """The nodes of each route of a pool, and what engines hold of these and other routes, by node and base."""

    serving: dict[PointerKey, tuple[Name, ...]]
    held: dict[tuple[Name, str], Holding]


@dataclass(eq=False)
class Placements:
    """Answers questions about the assignment of routes to nodes of pools."""

    _state: FoldedLog
    _fleet: Fleet
    _tables: NodeTables
    _pools: Pools
    _routes: PooledRoutes
    _usual: UsualShares
    _clock: Clock
    _computing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def explain(self, key: PointerKey) -> PlacementExplained:
        """Says why a route is where it is. Raises: Refused: unknown_tenant, unknown_route, not_pooled, offboarded."""
        tenant, config, _ = self._state.route(*key)
        if config.pool is None:
            fix = f"loradeck route set {'/'.join(key)} --pool POOL"
            raise Refused("not_pooled", f"{'/'.join(key)} is placed by labels", detail=str(config.placement), fix=fix)
        pool = self._state.pools[config.pool.pool]
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
            sku=self._pools.sku(config.pool.pool),
        )

    async def preview(self, without: Collection[Name], slots: int | None, pool: Name | None) -> PlacementPreview:
        """Computes anew without some nodes, or with one more that has so many slots, in a pool (None: in each)."""
        before, after = await self.otherwise(pool, without=without, slots=slots)
        found = await self.outlook(before, after)
        moves = [
            PlannedMove(
                tenant=key[0],
                route=key[1],
                leaves=tuple(name for name in some if name not in after.serving[key]),
                joins=tuple(name for name in after.serving[key] if name not in some),
            )
            for key, some in sorted(before.serving.items())
            if set(some) != set(after.serving[key])
        ]
        nodes = [
            PlannedNode(
                node=name,
                slots=sum(held.slots for (node, _), held in (before.held | after.held).items() if node == name),
                routes=(_routes_on(before.serving, name), _routes_on(after.serving, name)),
                cold=(_cold_on(found.cold[0], name), _cold_on(found.cold[1], name)),
            )
            for name in sorted({node for node, _ in (*before.held, *after.held)})
        ]
        return PlacementPreview(
            moves=tuple(moves[:MOST_MOVES]),
            total=len(moves),
            nodes=tuple(nodes),
            colder=_named(found.colder),
            warmer=_named(found.warmer),
        )

    async def otherwise(
        self,
        pool: Name | None,
        *,
        without: Collection[Name] = (),
        slots: int | None = None,
        routes: int = 0,
        each: int = ON_DEMAND_SLOTS,
        instead: Mapping[PointerKey, TableEntry] | None = None,
    ) -> tuple[Served, Served]:
        """Says where routes of pools are to be served now, and where they would be otherwise. One call at a time.

        Args:
            without: nodes that are gone.
            slots: of one more node in the pool (None: in each pool); None: there is none.
            routes: new ones in the pool, each on one node.
            each: slots of each new route.
            instead: entries of routes in the place of those of now.
        """
        async with self._computing:
            plans = dict(await self._routes.plan())
            count = {base: sum(asked.pool == pool for asked, _ in plan.asked.values()) for base, plan in plans.items()}
            main = max(count, key=lambda base: (count[base], base), default=None)
            if pool is not None and (main is None or not count[main]):
                main = self._state.pools[pool].base or ""
                plans[main] = await self._with_nodes_of(pool, plans.get(main))
            before, after = Served({}, {}), Served({}, {})
            for base, plan in plans.items():
                new = routes if base == main else 0
                found = await self._otherwise(plan, without, slots, pool, new)
                for served, serving, names, entries in (
                    (before, plan.outcome.serving, plan.capacity, None),
                    (after, found.serving, [name for name in plan.capacity if name not in without], instead),
                ):
                    served.serving.update(serving)
                    at = defaultdict[Name, list[PointerKey]](list)
                    for key, some in serving.items():
                        for name in some:
                            at[name].append(key)
                    for name in names if slots is None or served is before else (*names, NEW):
                        added = each * sum(key[0] == NEW_ROUTES for key in at[name])
                        held = self.held(name, base, at[name], slots=slots, new=added, instead=entries)
                        served.held[name, base] = held
                        await asyncio.sleep(0)
            return before, after

    async def outlook(self, before: Served, after: Served) -> Outlook[tuple[Name, str]]:
        """Compares two ways of serving by the measured traffic, beside everything else."""
        traffic = {key: n for key in self._tables.entries if (n := self._usual.requests(key)) is not None}
        return await asyncio.to_thread(outlook, before.held, after.held, traffic, self._clock.now_ms())

    def table(self, name: Name) -> Table:
        """Returns what is placed on a node now; nodes with the same labels share it."""
        return self._tables.table(self._fleet.nodes[name].labels, name, own=False)

    def placed(self, name: Name) -> set[PointerKey]:
        """The routes with a release that a node serves now."""
        return self._tables.placed(self.table(name))

    def count(self, name: Name) -> int:
        """Counts the routes with a release that a node serves now."""
        return self._tables.count(self.table(name))

    def requests(self, key: PointerKey) -> float | None:
        """The requests an hour that are usual on a route; None: not known yet."""
        return self._usual.requests(key)

    def held(
        self,
        name: Name,
        base: str,
        keys: Iterable[PointerKey],
        *,
        slots: int | None = None,
        new: int = 0,
        instead: Mapping[PointerKey, TableEntry] | None = None,
    ) -> Holding:
        """A node's engines of a base ('': of any), with what is placed there by labels and these routes of pools.

        Args:
            slots: of a node that is not there yet.
            new: slots for routes that are to come.
            instead: entries of routes in the place of those of now.
        """
        entries, node = self._tables.entries, self._fleet.nodes.get(name)
        mine = set(keys)
        if node is not None:
            slots = sum(one.slots for one in node.replicas if base in ("", one.base))
            mine |= {key for key in self.placed(name) if not self._tables.is_assigned(key)}
        found = ((instead or {}).get(key) or entries.get(key) for key in mine)
        some = [entry for entry in found if entry is not None]
        some.sort(key=lambda entry: (-(entry.moved_ms or 0), entry.key))
        pins = node.pins if node is not None else ()
        return Holding(slots=slots or 0, base=base or None, entries=tuple(some), pins=pins, new=new)

    async def _with_nodes_of(self, pool: Name, plan: Planned | None) -> Planned:
        """A plan with the nodes of a pool in which no route is yet."""
        config = self._state.pools[pool]
        slots = self._pools.slots(config, config.base)
        capacity = {name: float(max(1, count)) for name, count in slots.items() if not self._pools.trouble(name)}
        if plan is None:
            return Planned(asked={}, demands={}, capacity=capacity, outcome=await assigned_beside({}, capacity))
        return replace(plan, capacity={**plan.capacity, **capacity})

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
        there = next((names for (here, _), names in pools.items() if here), None)
        if there is None and pool is not None and routes:
            config = self._state.pools[pool]
            there = tuple(name for name in (*self._pools.slots(config, config.base), *more) if name in capacity | more)
        demands |= {(NEW_ROUTES, str(n)): Demand(replicas=1, pool=there or ()) for n in range(routes)}
        return await assigned_beside(demands, capacity | (more if there else {}))


def _routes_on(serving: Serving, name: Name) -> int:
    return sum(name in some for some in serving.values())


def _cold_on(cold: Mapping[tuple[Name, str], Collection[PointerKey]], name: Name) -> int:
    return sum(len(keys) for (node, _), keys in cold.items() if node == name)


def _named(keys: Iterable[PointerKey]) -> tuple[str, ...]:
    return tuple("/".join(key) for key in keys)[:MOST_MOVES]
