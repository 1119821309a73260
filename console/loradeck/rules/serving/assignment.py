"""Assignment: which replicas of a pool serve a route, which come next, and why.

Each route ranks the replicas of its pool by a hash of both names, weighted by capacity (rendezvous hashing: Thaler and
Ravishankar, 1998; the weights: Schindelhauer and Schomaker, 2005). It gets the first that are not full, so that no
replica has much more than its share (bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2016). What serves a
route stays, unless it has left the pool or is too full, or one that the route prefers has little: a replica that comes
or goes moves about its own share of the routes.
"""

import hashlib
import math
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.schemas.ids import Name, PointerKey

SPARE = 1.15
"""A replica gets at most so many times its share of what is assigned; one that has so many times less is given more."""


LIGHT, HEAVY = 0.5, 8.0
"""What a route without requests adds to a replica, and the most that one adds, where a usual one adds 1."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A route that is to be assigned.

    Attributes:
        replicas: how many are to serve it.
        pool: those that may.
        load: what it adds to each replica that serves it, where a usual route adds 1.
        zones: replica -> its zone; those that serve are of different ones where there are so many. {}: of any.
        now: those that serve it, the first to stay first.
    """

    replicas: int
    pool: Collection[Name]
    load: float = 1.0
    zones: Mapping[Name, str] = field(default_factory=dict)
    now: Sequence[Name] = ()


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The replicas of every route, and how full all replicas are then.

    Attributes:
        serving: the replicas of each route.
        load: of each replica: the loads of its routes.
        room: of each replica: the load up to which it is not full.
    """

    serving: Mapping[PointerKey, tuple[Name, ...]]
    load: Mapping[Name, float]
    room: Mapping[Name, float]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A replica in the order in which a route prefers them. `distance`: the nearest is the first choice."""

    replica: Name
    distance: float
    serves: bool
    full: bool


def loads(requests: Mapping[PointerKey, float | None]) -> dict[PointerKey, float]:
    """The load that each route adds to a replica: half for being there, half for its share of all requests.

    None: not known; it adds 1, as one with as many requests as the mean does.
    """
    known = [count for count in requests.values() if count is not None]
    mean = sum(known) / len(known) if known else 0.0
    return {
        key: 1.0 if count is None or not mean else round(min(HEAVY, LIGHT + (1 - LIGHT) * count / mean), 2)
        for key, count in requests.items()
    }


def ranked(key: PointerKey, pool: Collection[Name], capacity: Mapping[Name, float]) -> list[Name]:
    """The replicas of a pool as a route prefers them. `capacity`: the weight of each, above 0."""
    return sorted(pool, key=lambda replica: (_distance(key, replica, capacity[replica]), replica))


def explained(
    key: PointerKey, demand: Demand, capacity: Mapping[Name, float], assignment: Assignment
) -> tuple[Choice, ...]:
    """Says why a route is where it is: its pool in the order in which it prefers them, and which of them are full."""
    serving = assignment.serving.get(key, ())
    return tuple(
        Choice(
            replica=name,
            distance=_distance(key, name, capacity[name]),
            serves=name in serving,
            full=name not in serving and assignment.load[name] + demand.load > assignment.room[name],
        )
        for name in ranked(key, [name for name in demand.pool if name in capacity], capacity)
    )


def _distance(key: PointerKey, replica: Name, weight: float) -> float:
    """-ln(u) / w with u in (0, 1) drawn by the names: of several replicas one is the nearest w / sum(w) of the time."""
    digest = hashlib.sha256(f"{key[0]}\0{key[1]}\0{replica}".encode()).digest()
    return -math.log((int.from_bytes(digest[:8], "big") + 0.5) / 2**64) / weight


Steps = Generator[None, None, None]
"""Work that pauses after each look at a route, for others to have a turn."""


def assigning(
    demands: Mapping[PointerKey, Demand], capacity: Mapping[Name, float]
) -> Generator[None, None, Assignment]:
    """Assigns every route. One whose pool has too few replicas with room takes full ones rather than none.

    It pauses after each look at a route, some microseconds: with 10,000 of them it takes some tenths of a second, in
    which others have their turns. What it is given must not change meanwhile.

    The same again, with its outcome as what serves now, changes less each time, until it changes nothing.

    `capacity`: of every replica that is there: its weight, above 0. Replicas of a pool that are missing get nothing.
    """
    work = _Work(demands, capacity)
    yield
    for part in (work.keep, work.relieve, work.place, work.fill):
        yield from part()
    return Assignment(
        serving={key: tuple(chosen) for key, chosen in work.chosen.items()}, load=work.load, room=work.room
    )


class _Work:
    def __init__(self, demands: Mapping[PointerKey, Demand], capacity: Mapping[Name, float]) -> None:
        self.demands = demands
        self.capacity = capacity
        shared: dict[int, frozenset[Name]] = {}  # most routes of a pool have the same nodes to choose from
        for demand in demands.values():
            if id(demand.pool) not in shared:
                shared[id(demand.pool)] = frozenset(demand.pool) & capacity.keys()
        self.pools = {key: shared[id(demand.pool)] for key, demand in demands.items()}
        asked = sum(demand.load * min(demand.replicas, len(self.pools[key])) for key, demand in demands.items())
        total = sum(capacity.values())
        self.share = {name: asked * weight / total for name, weight in capacity.items()}
        self.room = {name: max(1.0, math.ceil(share), SPARE * share) for name, share in self.share.items()}
        self.load = dict.fromkeys(capacity, 0.0)
        self.chosen: dict[PointerKey, list[Name]] = {key: [] for key in sorted(demands)}
        self._farthest: dict[PointerKey, tuple[float, Name]] = {}
        """The replica that a route prefers least of those that serve it."""

    def keep(self) -> Steps:
        """Keeps for each route what serves it, one in each zone where the pool has others."""
        for key, chosen in self.chosen.items():
            demand, pool = self.demands[key], self.pools[key]
            others = bool(demand.zones) and len({demand.zones.get(name) for name in pool}) > 1
            for name in demand.now:
                doubled = others and self._doubled(demand, chosen, name)
                if name in pool and len(chosen) < demand.replicas and not doubled:
                    self._add(key, name)
            yield

    def relieve(self) -> Steps:
        """Takes from those that are too full the routes that prefer them least, as far as others have room."""
        for name in sorted(self.capacity):
            if self.load[name] <= self.room[name]:
                continue
            mine = []
            for key, chosen in self.chosen.items():
                if name in chosen:
                    mine.append((self._far(key, name), key))
                yield
            for _, key in sorted(mine, key=lambda one: one[0], reverse=True):
                if self.load[name] <= self.room[name]:
                    break
                self._remove(key, name)
                found = self._best(key, self.pools[key] - {name})
                moves = found is not None and self._fits(key, found) and self._spreads(key, name, found)
                self._add(key, found if found is not None and moves else name)
                yield

    def place(self) -> Steps:
        """Gives each route what it lacks."""
        for key, chosen in self.chosen.items():
            while len(chosen) < self.demands[key].replicas:
                found = self._best(key, self.pools[key])
                if found is None:
                    break
                self._add(key, found)
            yield

    def fill(self) -> Steps:
        """Gives to those that have little the routes that prefer them to what they have."""
        for name in sorted(name for name, load in self.load.items() if load * SPARE < self.share[name]):
            prefer = yield from self._who_prefer(name)
            for _, key, left in sorted(prefer):
                if self.load[name] + self.demands[key].load > self.share[name]:
                    break
                self._remove(key, left)
                self._add(key, name)

    def _who_prefer(self, name: Name) -> Generator[None, None, list[tuple[float, PointerKey, Name]]]:
        found = []
        for key, chosen in self.chosen.items():
            yield
            if name not in self.pools[key] or name in chosen or not chosen:
                continue
            distance = self._far(key, name)
            if key not in self._farthest:
                self._farthest[key] = max((self._far(key, other), other) for other in chosen)
            farthest, left = self._farthest[key]
            if distance < farthest and self._spreads(key, left, name):
                found.append((distance, key, left))
        return found

    def _best(self, key: PointerKey, among: Collection[Name]) -> Name | None:
        """The replica that a route gets next: in another zone first, then with room, then the nearest."""
        demand, chosen = self.demands[key], self.chosen[key]
        left = [name for name in among if name not in chosen]
        return min(
            left,
            key=lambda name: (
                self._doubled(demand, chosen, name),
                not self._fits(key, name),
                self._far(key, name),
                name,
            ),
            default=None,
        )

    def _fits(self, key: PointerKey, name: Name) -> bool:
        return self.load[name] + self.demands[key].load <= self.room[name]

    def _doubled(self, demand: Demand, chosen: Sequence[Name], name: Name) -> bool:
        """Tells whether a route has one in the zone of this replica already."""
        return bool(demand.zones) and demand.zones.get(name) in {demand.zones.get(one) for one in chosen}

    def _spreads(self, key: PointerKey, left: Name, name: Name) -> bool:
        """Tells whether a route is in no fewer zones with a replica in place of the one that it leaves."""
        demand, rest = self.demands[key], [one for one in self.chosen[key] if one != left]
        return self._doubled(demand, rest, left) or not self._doubled(demand, rest, name)

    def _far(self, key: PointerKey, name: Name) -> float:
        return _distance(key, name, self.capacity[name])

    def _add(self, key: PointerKey, name: Name) -> None:
        self.chosen[key].append(name)
        self._farthest.pop(key, None)
        self.load[name] += self.demands[key].load

    def _remove(self, key: PointerKey, name: Name) -> None:
        self.chosen[key].remove(name)
        self._farthest.pop(key, None)
        self.load[name] -= self.demands[key].load
