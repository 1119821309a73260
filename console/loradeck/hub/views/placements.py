"""Placements as they are explained, and what would move if nodes were gone or one more were there.

And capacity: what nodes and pools hold at each level, and whether a promote or new customers fit.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mode
from typing import NamedTuple

from loradeck.hub.automation.pooled_routes import Planned, PooledRoutes, assigned_beside
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables, Table
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.tenants import pooled
from loradeck.rules.serving.assignment import Assignment, Demand, explained
from loradeck.rules.serving.capacity import ALWAYS_SLOTS, ON_DEMAND_SLOTS, Holding, Outlook, outlook
from loradeck.schemas.capacity import MOST_NAMED, CapacityPlan, CapacityRow, ColderRoute
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.manifest import Release
from loradeck.schemas.pool import (
    MOST_MOVES,
    PlacementChoice,
    PlacementExplained,
    PlacementPreview,
    PlannedMove,
    PlannedNode,
)
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import RouteResidency, TableEntry

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


Sees = Callable[[Name], bool]
"""Whether the caller may be told of a tenant."""

By = tuple[Name, str]


@dataclass(eq=False)
class Capacities:
    """The capacity of pools and nodes, as measured and as planned."""

    _state: FoldedLog
    _fleet: Fleet
    _pools: Pools
    _capacity: Capacity
    _placements: Placements

    # ---- as measured ---------------------------------------------------------------------------------------

    def rows(self) -> list[CapacityRow]:
        """Every pool, then every node that is no gateway, by name."""
        nodes = {name: node for name, node in sorted(self._fleet.nodes.items()) if not node.gateway}
        return [*self.pools(), *(self._row(name, [node], self._placements.count(name)) for name, node in nodes.items())]

    def pools(self) -> list[CapacityRow]:
        """Every pool by name."""
        routes = Counter(
            config.pool.pool
            for key, config in pooled(self._state.tenants)
            if config.pool is not None and self._state.pointer(key).release is not None
        )
        found = []
        for name, config in sorted(self._state.pools.items()):
            nodes = [self._fleet.nodes[node] for node in self._pools.slots(config)]
            found.append(self._row(name, nodes, routes[name], pool=True))
        return found

    def _row(self, name: Name, nodes: Sequence[Node], routes: int, *, pool: bool = False) -> CapacityRow:
        heard = [node for node in nodes if node.link is not None and not node.lost]
        told = heard if pool else nodes  # of a node what it said last is worth more than nothing
        engines = [one for node in told for one in node.replicas if one.state is not EngineState.STOPPED]
        knows = bool(engines) and all(one.levels_known for one in engines)
        batch = [(one.on_device, one.batch_slots) for one in engines]
        mixed = [(held, slots) for held, slots in batch if held is not None and slots]
        cold = [node.cold for node in told if node.cold is not None]
        loads = [one.load_s for one in engines if one.load_s is not None]
        return CapacityRow(
            name=name,
            pool=pool,
            of=self._pools.sku(name) if pool else self._pools.trouble(name),
            nodes=(len(heard), len(nodes)),
            routes=routes,
            device=(sum(held for held, _ in mixed), sum(n for _, n in mixed)) if mixed and mixed == batch else None,
            host=(sum(len(one.loaded) for one in engines), sum(one.slots for one in engines)) if knows else None,
            disk=len(frozenset[str]().union(*(node.stored for node in told))) if told else None,
            asked=_sum(one.asked for one in cold),
            cold=_sum(one.cold for one in cold),
            refused=_sum(one.refused for one in cold),
            minute=_sum(one.minute for one in cold),
            waiting=_sum(one.waiting for one in cold),
            evictions=_sum(one.evictions for one in engines),
            load_s=max(loads, default=None),
        )

    # ---- as planned ----------------------------------------------------------------------------------------

    async def promote(
        self, key: PointerKey, candidate: Release, now_ms: int, sees: Sees, *, more: bool
    ) -> CapacityPlan:
        """Says whether a release fits on the nodes of a route, and who would be colder for it.

        `more`: also what one more node in the route's pool would buy.
        """
        config, instead = self._state.config(key), {key: self._capacity.moved(key, candidate, now_ms)}
        before, after = Served({}, {}), Served({}, {})
        called = (key,) if config.residency is RouteResidency.ON_DEMAND else ()
        alike: dict[tuple[object, ...], list[Name]] = {}  # nodes that hold the same
        for node, replica in self._capacity.placed(key, candidate):
            if not node.lost and replica.slots:
                same = (id(self._placements.table(node.name)), replica.slots, *(pin.release.id for pin in node.pins))
                alike.setdefault(same, []).append(node.name)
        names = {some[0]: some for some in alike.values()}
        for first in names:
            at, keys = (first, candidate.served_base), self._placements.placed(first)
            before.held[at] = self._placements.held(*at, keys)
            after.held[at] = replace(self._placements.held(*at, {*keys, key}, instead=instead), called=called)
        found = await self._placements.outlook(before, after)
        short = tuple((name, base) for first, base in found.short for name in names[first])
        bought = None
        if more and config.pool is not None and (slots := self._usual_slots(config.pool.pool)):
            now, then = await self._placements.otherwise(config.pool.pool, slots=slots, instead=instead)
            bought = self._plan(await self._placements.outlook(now, then), sees, None, slots)
        return self._plan(replace(found, short=short), sees, bought)

    async def customers(self, pool: Name, routes: int, sees: Sees, *, always: bool) -> CapacityPlan:
        """Says whether so many new routes fit into a pool, and who would be colder for them.

        Raises: Refused: no_replica, where no node of the pool can be given routes.
        """
        slots = self._usual_slots(pool)
        if slots is None:
            fix = f"loradeck pool show {pool}"
            raise Refused("no_replica", f"no node of the pool {pool} can be given routes now", fix=fix)
        each = ALWAYS_SLOTS if always else ON_DEMAND_SLOTS
        now, then = await self._placements.otherwise(pool, routes=routes, each=each)
        found = await self._placements.outlook(now, then)
        now, then = await self._placements.otherwise(pool, slots=slots, routes=routes, each=each)
        more = self._plan(await self._placements.outlook(now, then), sees, None, slots)
        return self._plan(found, sees, more)

    def _usual_slots(self, pool: Name) -> int | None:
        """The slots of most nodes of a pool that are given routes; None: there is no such node."""
        config = self._state.pools[pool]
        given = [n for name, n in self._pools.slots(config, config.base).items() if not self._pools.trouble(name)]
        return mode(sorted(given)) if given else None

    def _plan(self, found: Outlook[By], sees: Sees, more: CapacityPlan | None, slots: int = 0) -> CapacityPlan:
        colder = [
            ColderRoute(tenant=key[0], route=key[1], requests_h=self._placements.requests(key))
            for key in found.colder
            if sees(key[0])
        ]
        return CapacityPlan(
            short=tuple(sorted({node for node, _ in found.short})),
            colder=tuple(colder[:MOST_NAMED]),
            total=len(found.colder),
            resident=found.resident,
            warmer=len(found.warmer),
            slots=slots,
            more=more,
        )


def _sum(figures: Iterable[int]) -> int | None:
    known = list(figures)
    return sum(known) if known else None
