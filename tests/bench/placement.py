"""Tenants placed in a pool, by the rule alone: how long it takes, how even it is, and what moves when a node goes.

Every tenant is on one node, and half of what it weighs is its share of the traffic (Zipf, s = 1). Beside it plain
consistent hashing: a ring of names with as many points for each node as libraries set by default.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect
from collections.abc import Mapping

from tests.bench.rows import Row
from tests.fakes.assigned import assign

from loradeck.rules.serving.assignment import Demand, loads
from loradeck.schemas.ids import PointerKey

TENANTS, NODES = 10_000, 100
Serving = Mapping[PointerKey, tuple[str, ...]]

POINTS = 160
"""Points of a node on the ring of plain consistent hashing, as ketama has them."""


def measure(*, tenants: int = TENANTS, nodes: int = NODES) -> list[Row]:
    """Some seconds of one core."""
    keys = [(f"t{n:05}", "production") for n in range(tenants)]
    weight = loads({key: 1e6 / (1 + n) for n, key in enumerate(keys)})
    capacity = {f"gpu-{n:03}": 128.0 for n in range(nodes)}
    left = {name: slots for name, slots in capacity.items() if name != "gpu-042"}

    def assigned(there: Mapping[str, float], now: Serving) -> Serving:
        demands = {key: Demand(replicas=1, pool=tuple(there), load=weight[key], now=now.get(key, ())) for key in keys}
        return assign(demands, there).serving

    took, found = list[float](), list[Serving]([{}])
    for there in (capacity, left, capacity):
        began = time.process_time()
        found.append(assigned(there, found[-1]))
        took.append(time.process_time() - began)
    _, first, without, back = found
    moved, again = _differing(first, without) / tenants, _differing(without, back) / tenants
    ring, ring_left = _ring(keys, capacity), _ring(keys, left)
    count = f"{tenants:,} tenants on {nodes} nodes"
    return [
        Row(f"{count}, from nothing", took[0], "s of CPU", 1, how="the pure rule"),
        Row("the same when a node leaves", took[1], "s of CPU", 1),
        Row("the same when it is back", took[2], "s of CPU", 1),
        Row("fullest node by weight", _fullest(first, weight, nodes), "x mean", nodes, 1.15, reference="floor"),
        Row(
            "the same with a node gone",
            _fullest(without, weight, nodes - 1),
            "x mean",
            nodes - 1,
            1.15,
            reference="floor",
        ),
        Row("the same, plain consistent hashing", _fullest(ring, weight, nodes), "x mean", nodes, reference="floor"),
        Row("tenants that move when a node leaves", moved * nodes, "x 1/n", tenants, 1.2, reference="floor"),
        Row("tenants that move when it is back", again * nodes, "x 1/n", tenants, 1.2, reference="floor"),
        Row(
            "the former, plain consistent hashing",
            _differing(ring, ring_left) / tenants * nodes,
            "x 1/n",
            tenants,
            reference="floor",
        ),
    ]


def _differing(one: Mapping[PointerKey, object], other: Mapping[PointerKey, object]) -> int:
    return sum(one[key] != other[key] for key in one)


def _fullest(serving: Serving, weight: Mapping[PointerKey, float], nodes: int) -> float:
    load: dict[str, float] = {}
    for key, (name,) in serving.items():
        load[name] = load.get(name, 0.0) + weight[key]
    return max(load.values()) * nodes / sum(load.values())


def _ring(keys: list[PointerKey], nodes: Mapping[str, float]) -> Serving:
    points = sorted((_point(f"{name}-{n}"), name) for name in nodes for n in range(POINTS))
    at = [point for point, _ in points]
    return {key: (points[bisect(at, _point("/".join(key))) % len(points)][1],) for key in keys}


def _point(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
