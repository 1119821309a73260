"""Pooled routes: the hub assigns them to nodes of their pools, and moves them as nodes come, go, drain and fill."""

import logging
from collections.abc import Collection, Iterable, Mapping
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
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.pools import assigned, pooled
from loradeck.rules.serving.assignment import Assignment, Demand, assign, loads
from loradeck.rules.serving.reassignment import Standing, steps, why
from loradeck.schemas.ids import Fence, Name, PointerKey, Role
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import HOUR_MS, StoreError

log = logging.getLogger("loradeck.hub.automation.pooled_routes")

ACTOR = Actor(name="placement", role=Role.OPERATOR, automation=True)

CONCERNS = frozenset({EventKind.POOL, EventKind.ROUTE, EventKind.NODE_FORGET, EventKind.TENANT_OFFBOARD})
"""What has the plan made anew. A step that follows the plan does not, nor does a move that stays on its base."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The assignment of the routes that run one base: what it is computed from, and the outcome."""

    demands: Mapping[PointerKey, Demand]
    capacity: Mapping[Name, float]
    outcome: Assignment


@dataclass(eq=False)
class PooledRoutes:
    """Where the routes of pools shall be, and the steps that bring them there."""

    _log: Log
    _fleet: Fleet
    _tables: NodeTables
    _pools: Pools
    _replicas: PlacedReplicas
    _usual: UsualShares
    _allowed: MovesAllowed
    _background: Background
    _clock: Clock
    _plans: dict[str, Planned] = field(default_factory=dict, init=False)
    _bases: dict[PointerKey, str | None] = field(default_factory=dict, init=False)
    """The base of each route, as it was planned with."""
    _open: dict[PointerKey, tuple[Name, ...]] = field(default_factory=dict, init=False)
    """The wanted nodes of the routes that are not there yet."""
    _failed: dict[PointerKey, tuple[Fence, set[Name]]] = field(default_factory=dict, init=False)
    """The nodes on which a route's newest release could not be loaded when it was to join them."""
    _stale: bool = field(default=True, init=False)
    _seen: object = field(default=None, init=False)
    _acting: bool = field(default=False, init=False)

    def committed(self, published: Published) -> None:
        """Notes that routes, pools or pointers have changed; a follower of the log."""
        kinds = {event.kind for event in published.events}
        if not kinds.isdisjoint(CONCERNS) or any(self._is_planned_otherwise(move.key) for move in published.moves):
            self._stale = True
        elif EventKind.ASSIGN in kinds:
            self._look()

    def tick(self) -> None:
        """Looks where routes shall be, and takes the steps that are due; called once a second."""
        if self._acting or not self._log.state.pools or not self._allowed.forward:
            return
        self._note_failed()
        self.plan()
        if self._open and self._due():
            self._acting = True
            self._background.spawn(self._act())

    @property
    def under_way(self) -> Collection[PointerKey]:
        """The routes that are not where they shall be."""
        return self._open.keys()

    # ---- where routes shall be -----------------------------------------------------------------------------

    def _fleet_now(self) -> object:
        """The part of the fleet that the plan follows from, and the hour: with another one it is made anew."""
        nodes = [
            (
                *(node.name, node.lost, node.drained, node.cordoned, *node.labels.items()),
                *((one.replica, one.base, one.slots, one.build) for one in node.replicas),
            )
            for node in self._fleet.nodes.values()
        ]
        return nodes, self._clock.now_ms() // HOUR_MS

    def plan(self) -> Mapping[str, Planned]:
        """Says where routes shall be, by base, as the log and the fleet are now."""
        seen = self._fleet_now()
        if self._stale or seen != self._seen:
            self._stale, self._seen = False, seen
            self._plan()
        return self._plans

    def _plan(self) -> None:
        routes = pooled(self._log.state.tenants)
        self._bases = {key: self._base(key) for key, _ in routes}
        self._plans = {
            base: Planned(demands=demands, capacity=capacity, outcome=assign(demands, capacity))
            for base, (demands, capacity) in self._demands(routes).items()
        }
        self._look()

    def _is_planned_otherwise(self, key: PointerKey) -> bool:
        """Tells whether the plan rests on what a move of this route has changed: its base, or where it failed."""
        return key in self._failed or (key in self._bases and self._bases[key] != self._base(key))

    def _look(self) -> None:
        """Notes the routes that are not where they shall be."""
        self._open = {
            key: wanted
            for plan in self._plans.values()
            for key, wanted in plan.outcome.serving.items()
            if wanted and set(wanted) != set(self._now(key))
        }

    def _demands(
        self, routes: Iterable[tuple[PointerKey, RouteConfig]]
    ) -> dict[str, tuple[dict[PointerKey, Demand], dict[Name, float]]]:
        """By base, what is asked of the pools and what their nodes can take. '': routes without a release, of any base.

        A node that is lost or drained can take nothing; one that is cordoned keeps what it has.
        """
        routes = list(routes)
        state, load = self._log.state, loads({key: self._usual.requests(key) for key, _ in routes})
        slots: dict[tuple[Name, str], dict[Name, int]] = {}
        found: dict[str, tuple[dict[PointerKey, Demand], dict[Name, float]]] = {}
        for key, config in routes:
            assert config.pool is not None
            pool = state.pools.get(config.pool.pool)
            if pool is None:
                continue
            base = self._bases[key] or pool.base or ""
            if (config.pool.pool, base) not in slots:
                slots[config.pool.pool, base] = self._pools.slots(pool, base or None)
            there, now = slots[config.pool.pool, base], self._now(key)
            demands, capacity = found.setdefault(base, ({}, {}))
            usable = [name for name in there if self._usable(name, now)]
            failed = self._failed_of(key)
            usable = [name for name in usable if name not in failed] or usable
            capacity.update({name: float(max(1, there[name])) for name in usable})
            ready, spread = self._replicas.ready(key), config.pool.spread
            demands[key] = Demand(
                replicas=config.pool.replicas,
                pool=usable,
                load=load[key],
                zones={name: self._fleet.nodes[name].labels.get(spread, "") for name in usable} if spread else {},
                now=sorted(now, key=lambda name: name not in ready),
            )
        return found

    def _usable(self, name: Name, now: tuple[Name, ...]) -> bool:
        return self._pools.trouble(name) in (("", "cordoned") if name in now else ("",))

    def _base(self, key: PointerKey) -> str | None:
        placing = self._tables.placing(key)
        return placing.base if placing is not None else None

    def _now(self, key: PointerKey) -> tuple[Name, ...]:
        return self._log.state.tenants[key[0]].assigned.get(key[1], ())

    def _note_failed(self) -> None:
        """Notes where a route that is on its way cannot be loaded: it goes elsewhere, until its pointer moves."""
        for key, wanted in self._open.items():
            entry = self._tables.entries.get(key)
            if entry is None:
                continue
            acks = self._replicas.acks(key).items()
            failed = {self._fleet.node_of(name) or "" for name, ack in acks if ack.state is AckState.FAILED}
            if new := (failed & {*wanted}) - self._failed_of(key):
                self._failed[key] = (entry.fence, self._failed_of(key) | new)
                self._stale = True

    def _failed_of(self, key: PointerKey) -> set[Name]:
        fence, failed = self._failed.get(key, ((0, 0), set()))
        entry = self._tables.entries.get(key)
        return failed if entry is not None and entry.fence == fence else set()

    # ---- how they get there --------------------------------------------------------------------------------

    def _due(self) -> dict[PointerKey, tuple[Standing, tuple[Name, ...]]]:
        standing = {key: self._standing(key, wanted) for key, wanted in self._open.items()}
        return {key: (standing[key], after) for key, after in steps(standing).items()}

    def _standing(self, key: PointerKey, wanted: tuple[Name, ...]) -> Standing:
        now, nodes = self._now(key), self._fleet.nodes
        live = {name for name in (*now, *wanted) if name in nodes and not nodes[name].lost}
        ready = self._replicas.ready(key) if self._base(key) is not None else live
        return Standing(now=now, wanted=wanted, ready=ready, live=live)

    async def _act(self) -> None:
        """Assigns routes by what is true once no move is under way."""
        try:
            async with self._log.moving:
                self.plan()
                drafts = []
                for key, (at, after) in self._due().items():
                    trouble = {name: self._pools.trouble(name) for name in at.now if self._pools.trouble(name)}
                    draft = assigned(key, after, ACTOR, why=why(at, after, trouble)[:500])
                    if self._may(draft):
                        drafts.append(draft)
                if drafts:
                    state = self._log.state
                    await self._log.commit(drafts, f"assign {state.epoch} {state.rev}")
        except StoreError as error:
            log.error("routes are not assigned yet code=%s %s", error.code, error)
        finally:
            self._acting = False

    def _may(self, draft: Draft) -> bool:
        try:
            self._allowed.check_event(draft.kind, (draft.tenant, draft.route or ""))
        except Refused:
            return False  # a node has seen moves of it that the log lacks, or the log takes nothing forward now
        return True
