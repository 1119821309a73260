"""The schedule of faults that a seed draws: what goes wrong, when, and for how long."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

KINDS: tuple[tuple[str, int], ...] = (
    ("kill hub", 6),
    ("kill hub at commit", 5),
    ("kill agent", 5),
    ("kill router", 6),
    ("kill router at sync", 6),
    ("kill engine", 4),
    ("power cut", 5),
    ("cut both", 5),
    ("cut one way", 5),
    ("reset", 4),
    ("slow", 3),
    ("lose directives", 3),
    ("slow router", 4),
    ("pause", 5),
    ("full node disk", 3),
    ("failing node disk", 3),
    ("full hub disk", 2),
    ("commit unknown", 3),
    ("clock", 3),
    ("loads fail", 3),
    ("pin", 3),
    ("second hub", 2),
    ("restore hub", 2),
    ("restore node", 2),
)
FLEET_KINDS = ("relabel", "relabel", "drain", "forget")
"""What people do to nodes; a third of the plans have one more fault of these, drawn apart."""


GATEWAY_KINDS = ("cut gateway",)
"""What befalls gateways; three plans in ten have one more fault of these, drawn apart."""

VERSION_KINDS = ("old node", "old node", "old hub")
"""A side of the version before; one plan in five has one more fault of these, drawn apart."""

COPIED = "copy node"
"""A second host runs with a node's configuration and key; one seed in fifteen has it, drawn apart."""

LIES = "lying figures"
"""A node reports figures as it likes, within and beyond its bounds; one seed in fifteen has it, drawn apart."""

RARE: tuple[str, ...] = ("clone hub", "hostile hello", "other hub", "other hub")
"""Kinds of which one seed in six has one more fault, drawn apart: the plans of all others stay as they were."""


STANDBY = "stand by"
"""What befalls the active one of two hubs that share a database; one plan in ten has one such fault, drawn apart."""


HAND_OVER = "hand over"
"""Another router takes over on a node, and one of the two may end in the middle; one plan in six, drawn apart."""

POOLED = "pool routes"
"""A route is placed in a pool, and a node of it is off for a while later; one plan in four, drawn apart."""

ALONE = "one copy"
"""The hub's database loses its standby, and goes on with one copy; one seed in fifteen has it, drawn apart."""

BAD_RELEASES = "bad releases"
"""Releases answer badly where their routes are guarded, as all nodes report, or one; one plan in five, drawn apart."""

UPGRADE = "upgrade engines"
"""A campaign moves all nodes to another engine build; one plan in eight, drawn apart."""


@dataclass(frozen=True)
class Fault:
    """One fault: `at` and `seconds` of the run's time; `variant` picks what a kind leaves open."""

    at: float
    kind: str
    node: int
    seconds: float
    variant: int

    def as_json(self) -> dict[str, Any]:
        """For the written form of a plan."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Everything about a run but its seed's draws of delays.

    Attributes:
        asks: what people ask for, each as often as the others; empty: everything, as often as usual.
    """

    seed: int
    nodes: int
    moves: int
    seconds: float
    faults: tuple[Fault, ...]
    asks: tuple[str, ...] = ()


def draw(seed: int, only: Collection[str] = (), asks: Collection[str] = ()) -> Plan:
    """The plan of a seed. `only`: every fault is of these kinds, each as often as the others; `asks`: as in a plan."""
    random = Random(f"plan {seed}")
    nodes = random.choice((2, 2, 2, 3))
    seconds = random.uniform(12, 24)
    kinds = [(kind, 1) for kind in only] or KINDS
    names, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
    faults = []
    for _ in range(random.choice((0, 1, 2, 2, 3, 3, 4, 5, 6))):
        kind = random.choices(names, weights)[0]
        long = random.random() < 0.3
        faults.append(
            Fault(
                at=random.uniform(1.0, seconds),
                kind=kind,
                node=random.randrange(nodes),
                seconds=random.uniform(8, 20) if long else random.expovariate(0.6),
                variant=random.getrandbits(16),
            )
        )
    more = Random(f"rare {seed}")
    if not only and more.random() < 1 / 6:
        kind, at, lasts = more.choice(RARE), more.uniform(1.0, seconds), more.uniform(3, 15)
        faults.append(Fault(at, kind, more.randrange(nodes), lasts, more.getrandbits(16)))
    people = Random(f"people {seed}")
    if not only and people.random() < 0.35:
        kind, at, lasts = people.choice(FLEET_KINDS), people.uniform(1.0, seconds), people.uniform(2, 12)
        faults.append(Fault(at, kind, people.randrange(nodes), lasts, people.getrandbits(16)))
    gateways = Random(f"gateways {seed}")
    if not only and gateways.random() < 0.3:
        kind, at, lasts = gateways.choice(GATEWAY_KINDS), gateways.uniform(1.0, seconds), gateways.uniform(2, 15)
        faults.append(Fault(at, kind, gateways.randrange(nodes), lasts, gateways.getrandbits(16)))
    versions = Random(f"versions {seed}")
    if not only and versions.random() < 0.2:
        kind, at, lasts = versions.choice(VERSION_KINDS), versions.uniform(0.0, seconds), versions.uniform(3, 15)
        faults.append(Fault(at, kind, versions.randrange(nodes), lasts, versions.getrandbits(16)))
    copied = Random(f"copied {seed}")
    if not only and copied.random() < 1 / 15:
        at, lasts = copied.uniform(1.0, seconds), copied.uniform(5, 20)
        faults.append(Fault(at, COPIED, copied.randrange(nodes), lasts, copied.getrandbits(16)))
    liars = Random(f"liars {seed}")
    if not only and liars.random() < 1 / 15:
        at, lasts = liars.uniform(1.0, seconds), liars.uniform(5, 20)
        faults.append(Fault(at, LIES, liars.randrange(nodes), lasts, liars.getrandbits(16)))
    hubs = Random(f"standby {seed}")
    if not only and hubs.random() < 0.1:
        at, lasts = hubs.uniform(1.0, seconds), hubs.uniform(1, 15)
        faults.append(Fault(at, STANDBY, hubs.randrange(nodes), lasts, hubs.getrandbits(16)))
    routers = Random(f"hand over {seed}")
    if not only and routers.random() < 1 / 6:
        at, lasts = routers.uniform(1.0, seconds), routers.uniform(1, 3)
        faults.append(Fault(at, HAND_OVER, routers.randrange(nodes), lasts, routers.getrandbits(16)))
    alone = Random(f"alone {seed}")
    if not only and alone.random() < 1 / 15:
        at, lasts = alone.uniform(1.0, seconds), alone.uniform(3, 15)
        faults.append(Fault(at, ALONE, alone.randrange(nodes), lasts, alone.getrandbits(16)))
    pools = Random(f"pools {seed}")
    if not only and pools.random() < 0.25:
        at, node = pools.uniform(1.0, seconds / 2), pools.randrange(nodes)
        faults.append(Fault(at, POOLED, node, 1.0, pools.getrandbits(16)))
        at, lasts = at + pools.uniform(1, 8), pools.choice((3.0, pools.uniform(7, 20)))
        faults.append(Fault(at, "power cut", node, lasts, pools.getrandbits(16)))
    releases = Random(f"bad releases {seed}")
    if not only and releases.random() < 1 / 5:
        at, lasts = releases.uniform(0.0, seconds / 2), releases.uniform(8, 20)
        faults.append(Fault(at, BAD_RELEASES, releases.randrange(nodes), lasts, releases.getrandbits(16)))
    upgrades = Random(f"upgrades {seed}")
    if not only and upgrades.random() < 1 / 8:
        at = upgrades.uniform(0.0, seconds / 2)
        faults.append(Fault(at, UPGRADE, upgrades.randrange(nodes), seconds - at, upgrades.getrandbits(16)))
    faults.sort(key=lambda fault: fault.at)
    return Plan(seed, nodes, random.randint(3, 14), seconds, tuple(faults), tuple(asks))
