"""Assignment: which replicas of a pool serve a route, which come next, and why.

Each route ranks the replicas of its pool by a hash of both names, weighted by capacity (rendezvous hashing: Thaler and
Ravishankar, 1998; the weights: Schindelhauer and Schomaker, 2005). It gets the first that are not full, so that no
replica has much more than its share (bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2016). A replica that comes or
goes moves about its own share of the routes, and the same routes and replicas give the same assignment everywhere.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loradeck.schemas.ids import Name, PointerKey

SPARE = 1.15
"""A replica gets at most so many times its share of what is assigned."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A route that is to be assigned: on how many replicas, and which of them are its pool's."""

    replicas: int
    pool: Collection[Name]


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """The replicas of one route.

    Attributes:
        serving: those that serve it, the first choice first.
        next: the others of its pool, in the order in which they would take over; they hold files, not memory.
        full: those that come before the last one that serves, and had no room.
    """

    serving: tuple[Name, ...]
    next: tuple[Name, ...]
    full: tuple[Name, ...]


def ranked(key: PointerKey, pool: Collection[Name], capacity: Mapping[Name, float]) -> list[Name]:
    """The replicas of a pool as a route prefers them. `capacity`: the weight of each, above 0."""
    return sorted(pool, key=lambda replica: (_distance(key, replica, capacity[replica]), replica))


def _distance(key: PointerKey, replica: Name, weight: float) -> float:
    """-ln(u) / w with u in (0, 1) drawn by the names: of several replicas one is the nearest w / sum(w) of the time."""
    digest = hashlib.sha256(f"{key[0]}\0{key[1]}\0{replica}".encode()).digest()
    return -math.log((int.from_bytes(digest[:8], "big") + 0.5) / 2**64) / weight


def assign(demands: Mapping[PointerKey, Demand], capacity: Mapping[Name, float]) -> dict[PointerKey, Assigned]:
    """Assigns every route. One whose pool has too few replicas with room takes full ones rather than none.

    `capacity`: of every replica that is there: its weight, above 0. Replicas of a pool that are missing get nothing.
    """
    pools = {key: [name for name in demand.pool if name in capacity] for key, demand in demands.items()}
    asked = sum(min(demand.replicas, len(pools[key])) for key, demand in demands.items())
    unit = SPARE * asked / sum(capacity.values()) if capacity else 0.0
    room = {name: max(1, math.ceil(unit * weight)) for name, weight in capacity.items()}
    found = {}
    for key in sorted(demands):
        order = ranked(key, pools[key], capacity)
        free = [name for name in order if room[name] > 0]
        chosen = {*(free + [name for name in order if room[name] <= 0])[: demands[key].replicas]}
        last = max((i for i, name in enumerate(order) if name in chosen), default=-1)
        for name in chosen:
            room[name] -= 1
        found[key] = Assigned(
            serving=tuple(name for name in order if name in chosen),
            next=tuple(name for name in order if name not in chosen),
            full=tuple(name for name in order[: last + 1] if name not in chosen),
        )
    return found
