"""Capacity as it is shown: what nodes and pools hold at each level, and whether a promote or new customers fit."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mode

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.views.placements import Placements, Served
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.pools import pooled
from loradeck.rules.serving.capacity import ALWAYS_SLOTS, ON_DEMAND_SLOTS, Outlook
from loradeck.schemas.capacity import MOST_NAMED, CapacityPlan, CapacityRow, ColderRoute
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.release import Release
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.routing import RouteResidency

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
