"""Pooled routes: the hub assigns them to nodes of their pools, and moves them as nodes come, go, drain and fill."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.tenants import assign, pooled
from loradeck.rules.serving.assignment import Assignment, Demand, assigning, loads
from loradeck.rules.serving.reassignment import Standing, steps, why
from loradeck.schemas.ids import Fence, Name, PointerKey, Role
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.pooled_routes")

ACTOR = Actor(name="placement", role=Role.OPERATOR, automation=True)

CONCERNS = frozenset({EventKind.POOL, EventKind.ROUTE, EventKind.NODE_FORGET, EventKind.TENANT_OFFBOARD})
"""What has the plan made anew. A step that follows the plan does not, nor does a move that stays on its base."""


SLICE = 16
"""How many routes are looked at between two turns of the event loop: some two milliseconds at most, with 100 nodes."""


async def assigned_beside(demands: Mapping[PointerKey, Demand], capacity: Mapping[Name, float]) -> Assignment:
    """Assigns every route as `assigning` does, while the hub goes on with everything else."""
    steps, looks = assigning(demands, capacity), 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Assignment = done.value
            return found
        looks += 1
        if looks % SLICE == 0:
            await asyncio.sleep(0)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The assignment of the routes that run one base: what it is computed from, and the outcome.

    Attributes:
        asked: what each route asks of its pool, and what makes a node one of that.
    """

    asked: Mapping[PointerKey, tuple[Pooled, PoolConfig]]
    demands: Mapping[PointerKey, Demand]
    capacity: Mapping[Name, float]
    outcome: Assignment


_Asked = tuple[dict[PointerKey, tuple[Pooled, PoolConfig]], dict[PointerKey, Demand], dict[Name, float]]
"""What a plan is computed from: the fields `asked`, `demands` and `capacity` of `Planned`."""


@dataclass(eq=False, kw_only=True)
class PooledRoutes:
    """Where the routes of pools shall be, and the steps that bring them there."""

    log: Log
    fleet: Fleet
    tables: NodeTables
    pools: Pools
    replicas: PlacedReplicas
    usual: UsualShares
    allowed: MovesAllowed
    background: Background
    clock: Clock
    _plans: dict[str, Planned] = field(default_factory=dict, init=False)
    _bases: dict[PointerKey, str | None] = field(default_factory=dict, init=False)
    """The base of each route that the newest plan is made with."""
    _open: dict[PointerKey, tuple[Name, ...]] = field(default_factory=dict, init=False)
    """The wanted nodes of the routes that are not there yet."""
    _failed: dict[PointerKey, tuple[Fence, set[Name]]] = field(default_factory=dict, init=False)
    """The nodes on which a route's newest release could not be loaded when it was to join them."""
    _stale: bool = field(default=True, init=False)
    _seen: object = field(default=None, init=False)
    _acting: bool = field(default=False, init=False)
    _planning: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def committed(self, published: Published) -> None:
        """Notes that routes, pools or pointers have changed; a follower of the log."""
        kinds = {event.kind for event in published.events}
        if not kinds.isdisjoint(CONCERNS) or any(self._is_planned_otherwise(move.key) for move in published.moves):
            self._stale = True
        elif EventKind.ASSIGN in kinds:
            self._look()

    def tick(self) -> None:
        """Looks where routes shall be, and takes the steps that are due; called once a second."""
        if self._acting or not self.log.state.pools or not self.allowed.forward:
            return
        self._note_failed()
        if self._is_old or (self._open and self._due()):
            self._acting = True
            self.background.spawn(self._act())

    @property
    def under_way(self) -> Collection[PointerKey]:
        """The routes that are not where they shall be."""
        return self._open.keys()

    # ---- where routes shall be -----------------------------------------------------------------------------

    def _fleet_now(self) -> object:
        """The part of the fleet that the plan follows from, and the hour: with another one it is made anew."""
        nodes = [
            (
                node.name,
                node.lost,
                node.drained,
                node.cordoned,
                *node.labels.items(),
                *((one.replica, one.base, one.slots, one.build) for one in node.replicas),
            )
            for node in self.fleet.nodes.values()
        ]
        return nodes, self.clock.now_ms() // HOUR_MS

    @property
    def _is_old(self) -> bool:
        """Whether the plan is of other routes, pools or nodes than there are now."""
        return self._stale or self._fleet_now() != self._seen

    async def plan(self) -> Mapping[str, Planned]:
        """Says where routes shall be, by base, as the log and the fleet were when it was asked, or later.

        It is computed beside everything else, so that what it is of may have changed by the time it is there.
        """
        async with self._planning:
            if self._is_old:
                await self._plan()
            return self._plans

    async def _plan(self) -> None:
        self._stale, self._seen = False, self._fleet_now()
        try:
            routes = pooled(self.log.state.tenants)
            self._bases = {key: self._base(key) for key, _ in routes}
            plans = {}
            for base, (asked, demands, capacity) in (await self._demands(routes, self._bases)).items():
                outcome = await assigned_beside(demands, capacity)
                plans[base] = Planned(asked=asked, demands=demands, capacity=capacity, outcome=outcome)
            self._plans = plans
        except BaseException:
            self._stale = True
            raise
        self._look()

    def _is_planned_otherwise(self, key: PointerKey) -> bool:
        """Tells whether the plan rests on what a move of this route has changed: its base, or where it failed."""
        return key in self._failed or (key in self._bases and self._bases[key] != self._base(key))

    def _look(self) -> None:
        """Notes the routes that are not where they shall be."""
        self._open = {
            key: wanted
            for base, plan in self._plans.items()
            for key, wanted in plan.outcome.serving.items()
            if wanted and set(wanted) != set(self._now(key)) and self._is_as_planned(base, plan, key)
        }

    def _is_as_planned(self, base: str, plan: Planned, key: PointerKey) -> bool:
        """Tells whether a route, its base, and the nodes that it is to be on, are as they were when it was planned."""
        state, (asked, pool) = self.log.state, plan.asked[key]
        tenant = state.tenants.get(key[0])
        config = tenant.routes.get(key[1]) if tenant is not None and not tenant.offboarded else None
        if config is None or config.pool != asked or state.pools.get(asked.pool) != pool:
            return False
        usable = all(self._usable(name, self._now(key)) for name in plan.outcome.serving[key])
        return usable and base == (self._base(key) or pool.base or "")

    async def _demands(
        self, routes: Sequence[tuple[PointerKey, RouteConfig]], bases: Mapping[PointerKey, str | None]
    ) -> dict[str, _Asked]:
        """Gathers by base what routes ask for and what their nodes can take. '': routes without a release.

        A node that is lost or drained can take nothing; one that is cordoned keeps what it has.
        """
        state, load = self.log.state, loads({key: self.usual.requests(key) for key, _ in routes})
        slots: dict[tuple[Name, str], tuple[dict[Name, int], tuple[Name, ...]]] = {}
        found: dict[str, _Asked] = {}
        zones: dict[tuple[str, tuple[Name, ...]], dict[Name, str]] = {}
        counted = set[tuple[str, tuple[Name, ...]]]()
        for number, (key, config) in enumerate(routes):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            assert config.pool is not None
            pool = state.pools.get(config.pool.pool)
            if pool is None or key[0] not in state.tenants:
                continue
            base = bases[key] or pool.base or ""
            if (config.pool.pool, base) not in slots:
                there = self.pools.slots(pool, base or None)
                slots[config.pool.pool, base] = there, tuple(name for name in there if self._usable(name, ()))
            (there, given), now = slots[config.pool.pool, base], self._now(key)
            kept = tuple(name for name in now if name in there and name not in given and self._usable(name, now))
            usable = (*given, *kept) if kept else given
            if failed := self._failed_of(key):
                usable = tuple(name for name in usable if name not in failed) or usable
            asked, demands, capacity = found.setdefault(base, ({}, {}, {}))
            if (base, usable) not in counted:
                counted.add((base, usable))
                capacity.update({name: float(max(1, there[name])) for name in usable})
            ready, spread = self.replicas.ready(key), config.pool.spread
            if spread and (spread, usable) not in zones:
                zones[spread, usable] = {name: self.fleet.nodes[name].labels.get(spread, "") for name in usable}
            asked[key] = config.pool, pool
            demands[key] = Demand(
                replicas=config.pool.replicas,
                pool=usable,
                load=load[key],
                zones=zones[spread, usable] if spread else {},
                now=sorted(now, key=lambda name: name not in ready),
            )
        return found

    def _usable(self, name: Name, now: tuple[Name, ...]) -> bool:
        return self.pools.trouble(name) in (("", "cordoned") if name in now else ("",))

    def _base(self, key: PointerKey) -> str | None:
        placing = self.tables.placing(key)
        return placing.base if placing is not None else None

    def _now(self, key: PointerKey) -> tuple[Name, ...]:
        return self.log.state.tenants[key[0]].assigned.get(key[1], ())

    def _note_failed(self) -> None:
        """Notes where a route that is on its way cannot be loaded: it goes elsewhere, until its pointer moves."""
        for key, wanted in self._open.items():
            entry = self.tables.entries.get(key)
            if entry is None:
                continue
            acks = self.replicas.acks(key).items()
            failed = {self.fleet.node_of(name) or "" for name, ack in acks if ack.state is AckState.FAILED}
            if new := (failed & {*wanted}) - self._failed_of(key):
                self._failed[key] = (entry.fence, self._failed_of(key) | new)
                self._stale = True

    def _failed_of(self, key: PointerKey) -> set[Name]:
        fence, failed = self._failed.get(key, ((0, 0), set()))
        entry = self.tables.entries.get(key)
        return failed if entry is not None and entry.fence == fence else set()

    # ---- how they get there --------------------------------------------------------------------------------

    def _due(self) -> dict[PointerKey, tuple[Standing, tuple[Name, ...]]]:
        standing = {key: self._standing(key, wanted) for key, wanted in self._open.items()}
        return {key: (standing[key], after) for key, after in steps(standing).items()}

    def _standing(self, key: PointerKey, wanted: tuple[Name, ...]) -> Standing:
        now, nodes = self._now(key), self.fleet.nodes
        live = {name for name in (*now, *wanted) if name in nodes and not nodes[name].lost}
        ready = self.replicas.ready(key) if self._base(key) is not None else live
        return Standing(now=now, wanted=wanted, ready=ready, live=live)

    async def _act(self) -> None:
        """Assigns routes as planned, as far as that is true once no move is under way."""
        try:
            await self.plan()
            if not self._due():
                return
            async with self.log.moving:
                self._look()
                drafts = []
                for key, (at, after) in self._due().items():
                    trouble = {name: self.pools.trouble(name) for name in at.now if self.pools.trouble(name)}
                    draft = assign(key, after, ACTOR, why=why(at, after, trouble)[:500])
                    if self._may(draft):
                        drafts.append(draft)
                if drafts:
                    state = self.log.state
                    await self.log.commit(drafts, f"assign {state.epoch} {state.rev}")
        except StoreError as error:
            log.error("routes are not assigned yet code=%s %s", error.code, error)
        finally:
            self._acting = False

    def _may(self, draft: Draft) -> bool:
        try:
            self.allowed.check_event(draft.kind, (draft.tenant, draft.route or ""))
        except Refused:
            return False  # a node has seen moves of it that the log lacks, or the log takes nothing forward now
        return True
